// The page of `quantkit serve`: one prompt, the answers of all models, and what sets them apart.
// Text is only ever set as text, never as HTML.

const PARTLY = { style: "percent", maximumSignificantDigits: 3 };
const byId = (id) => document.getElementById(id);

/** An element with attributes and children; texts become text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const state = {
  models: [],
  /** What was said before, where there is one model. */
  messages: [],
  /** The answers that are on the page, by their elements. */
  answers: new Map(),
  abort: null,
};

// ── The server ─────────────────────────────────────────────────────────────────────────────────────

function headers() {
  const key = sessionStorage.getItem("quantkit-key");
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** A request that is told what is wrong in words. */
async function ask(options = {}) {
  const response = await fetch("/compare", { ...options, headers: headers() });
  if (response.ok) return response;
  const document = await response.json().catch(() => null);
  const error = new Error(document?.error?.message ?? `the server answered with status ${response.status}`);
  error.status = response.status;
  throw error;
}

/** The documents of a stream of events. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

// ── Figures ────────────────────────────────────────────────────────────────────────────────────────

const percent = (value) => value.toLocaleString("en", PARTLY);
const significant = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
const seconds = (value) => (value < 1 ? `${significant(value * 1000)} ms` : `${significant(value)} s`);

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (bytes >= 1024 && unit < 3) [bytes, unit] = [bytes / 1024, unit + 1];
  return `${significant(bytes)} ${units[unit]}`;
}

/** What is said of a model. */
function about({ title, bytes, bits_per_weight: bits }) {
  return [title, size(bytes), `${significant(bits)} bits per weight`].filter(Boolean).join(" · ");
}

/** A class for a probability, of five. */
function shade(probability) {
  const limits = [0.9, 0.5, 0.2, 0.05];
  const index = limits.findIndex((limit) => probability >= limit);
  return `p${index < 0 ? limits.length : index}`;
}

/** A token's text with its spaces and breaks to be seen. */
const visible = (text) => (text === "" ? "(part of a character)" : JSON.stringify(text));

// ── An answer ──────────────────────────────────────────────────────────────────────────────────────

class Answer {
  constructor(model, reference) {
    this.model = model;
    this.reference = reference;
    this.tokens = [];
    this.kl = [];
    this.sameTop = [];
    this.selected = -1;
    this.partsAt = null;
    this.build();
  }

  build() {
    const { name } = this.model;
    this.figures = make("dl", { class: "figures" });
    this.text = make("div", {
      class: "text",
      tabindex: "0",
      role: "group",
      "aria-label": `Answer of ${name}. Left and right arrow keys go from token to token.`,
    });
    this.note = make("p", { class: "note" });
    this.strip = make("figure", { class: "strip", hidden: "" });
    this.element = make("section", { class: "answer", "aria-label": name });
    if (state.models.length > 1) {
      this.element.append(make("h2", {}, name), make("p", { class: "about" }, about(this.model)));
    }
    this.element.append(
      this.figures,
      this.text,
      this.note,
      this.strip,
    );
    this.figure("First token", "…");
    this.figure("Tokens per second", "…");
    state.answers.set(this.text, this);
  }

  figure(name, value) {
    const known = [...this.figures.children].find((pair) => pair.firstChild.textContent === name);
    if (known) known.lastChild.textContent = value;
    else this.figures.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  }

  /** A new token; `isEnd` for the one that ends the turn and is no text. */
  add(token, isEnd = false) {
    const span = make("span", { class: `token ${shade(Math.exp(token.logprob))}` });
    span.textContent = isEnd ? "end of turn" : token.text;
    span.classList.toggle("newline", !isEnd && token.text.includes("\n"));
    span.classList.toggle("end", isEnd);
    this.tokens.push({ ...token, span, isEnd });
    this.text.append(span);
  }

  /** Marks the first token that differs from the reference's. */
  markParting() {
    if (!this.reference || this.partsAt !== null || this.model.incomparable) return;
    const others = this.reference.tokens;
    const count = Math.min(this.tokens.length, others.length);
    for (let index = 0; index < count; index++) {
      if (this.tokens[index].id === others[index].id) continue;
      this.partsAt = index;
      this.tokens[index].span.classList.add("parts");
      this.note.textContent =
        `First difference from ${this.reference.model.name}: token ${index + 1}, ` +
        `${this.named(index)} instead of ${this.reference.named(index)}.`;
      return;
    }
  }

  named(index) {
    const token = this.tokens[index];
    return token.isEnd ? "the end of the turn" : visible(token.text);
  }

  end(event) {
    if (event.end_token) this.add(event.end_token, true);
    const first = event.seconds_to_first_token;
    const rate = event.tokens_per_second;
    this.figure("First token", first === null ? "–" : seconds(first));
    this.figure("Tokens per second", rate === null ? "–" : significant(rate));
    this.figure("Tokens", event.completion_tokens);
  }

  /** Once all answers are there. */
  finish() {
    this.markParting();
    if (this.reference && this.partsAt === null && !this.model.incomparable && this.tokens.length > 0) {
      this.note.textContent = `The same tokens as ${this.reference.model.name}.`;
    }
  }

  diverge({ from, kl, same_top: same }) {
    kl.forEach((value, index) => {
      this.kl[from + index] = value;
      this.sameTop[from + index] = same[index];
    });
  }

  compared({ mean_kl: mean, largest_kl: largest, same_top: same }) {
    this.figure("Mean KL, nats per token", significant(mean));
    this.figure("Same top token", percent(same));
    this.drawStrip(largest);
  }

  /** A bar for each token of the reference's answer. */
  drawStrip(largest) {
    const svgName = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(svgName, "svg");
    const at = this.kl.indexOf(largest);
    const reference = this.reference.model.name;
    const where = at < 0 ? "" : `, at token ${at + 1}, ${this.reference.named(at)}`;
    const caption =
      `KL(${reference} ‖ ${this.model.name}) at each token of ${reference}'s answer. ` +
      `The largest is ${significant(largest)} nats${where}.`;
    svg.setAttribute("viewBox", `0 0 ${Math.max(this.kl.length, 24)} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", caption);
    this.kl.forEach((value, index) => {
      // Roots: else a single large one hides all others.
      const height = Math.max(1, 100 * Math.sqrt(value / Math.max(largest, 1e-9)));
      const bar = document.createElementNS(svgName, "rect");
      for (const [name, given] of Object.entries({ x: index + 0.1, y: 100 - height, width: 0.8, height })) {
        bar.setAttribute(name, given);
      }
      if (!this.sameTop[index]) bar.setAttribute("class", "other");
      svg.append(bar);
    });
    const others = this.sameTop.filter((same) => !same).length;
    const orange = others > 0 ? ` Orange: the top token differs (${others} tokens).` : "";
    const explained = "Bars have a square-root scale.";
    this.strip.replaceChildren(svg, make("figcaption", {}, `${caption} ${explained}${orange}`));
    this.strip.hidden = false;
  }

  select(index, isByKey) {
    if (!this.tokens[index]) return;
    for (const answer of state.answers.values()) answer.unselect();
    this.selected = index;
    this.tokens[index].span.classList.add("selected");
    if (isByKey) this.tokens[index].span.scrollIntoView({ block: "nearest" });
    showDetails(this, index, isByKey);
  }

  unselect() {
    this.tokens[this.selected]?.span.classList.remove("selected");
    this.selected = -1;
  }

  /** The divergences at a token, if the text before it is the reference's. */
  divergencesAt(index) {
    if (this.reference) {
      const isShared = this.partsAt === null || index <= this.partsAt;
      return isShared && this.kl[index] !== undefined ? [[this.model.name, this.kl[index]]] : [];
    }
    const variants = [...state.answers.values()].filter((answer) => answer.reference === this);
    return variants
      .filter((answer) => answer.kl[index] !== undefined)
      .map((answer) => [answer.model.name, answer.kl[index]]);
  }
}

// ── The selected token ─────────────────────────────────────────────────────────────────────────────

function showDetails(answer, index, isByKey) {
  const token = answer.tokens[index];
  const details = byId("details");
  // Read out where somebody went by key, not wherever the pointer passes.
  details.setAttribute("aria-live", isByKey ? "polite" : "off");
  byId("details-token").textContent = answer.named(index);
  byId("details-model").textContent = `${answer.model.name}, token ${index + 1}`;
  const body = byId("details-body");
  const chosen = `${percent(Math.exp(token.logprob))}, rank ${token.rank}`;
  body.replaceChildren(make("span", {}, chosen));
  for (const { id, text, logprob } of token.top ?? []) {
    if (id === token.id) continue;
    body.append(make("span", {}, make("code", {}, visible(text)), ` ${percent(Math.exp(logprob))}`));
  }
  for (const [name, value] of answer.divergencesAt(index)) {
    body.append(make("span", {}, `KL to ${name}: ${significant(value)} nats`));
  }
  details.hidden = false;
}

function closeDetails() {
  for (const answer of state.answers.values()) answer.unselect();
  byId("details").hidden = true;
}

function tokenAt(target) {
  const span = target.closest?.(".text .token");
  const answer = span && state.answers.get(span.parentElement);
  return answer && [answer, answer.tokens.findIndex((token) => token.span === span)];
}

function onTokenKey(event) {
  const answer = state.answers.get(event.target);
  if (!answer) return;
  const last = answer.tokens.length - 1;
  const steps = {
    ArrowRight: Math.min(last, answer.selected + 1),
    ArrowLeft: Math.max(0, answer.selected - 1),
    Home: 0,
    End: last,
  };
  if (!(event.key in steps)) return;
  event.preventDefault();
  answer.select(steps[event.key], true);
}

// ── Asking ─────────────────────────────────────────────────────────────────────────────────────────

const haveTemplates = () => state.models.every((model) => model.has_chat_template);
const isChat = () => byId("chat").checked && haveTemplates();

function question(prompt) {
  const body = {
    max_tokens: Number(byId("max-tokens").value),
    temperature: Number(byId("temperature").value),
    at_once: byId("at-once").checked,
  };
  if (!isChat()) return { ...body, prompt };
  return { ...body, messages: [...state.messages, { role: "user", content: prompt }] };
}

/** Puts a question on the page, with room for the answers. */
function newTurn(prompt) {
  const grid = make("div", { class: "answers" });
  const turn = make("article", { class: "turn" }, make("p", { class: "question" }, prompt), grid);
  if (state.models.length > 1) {
    state.answers.clear();
    byId("turns").replaceChildren(turn);
  } else {
    byId("turns").append(turn);
  }
  const answers = [];
  for (const model of state.models) {
    const answer = new Answer(model, answers[0] ?? null);
    answers.push(answer);
    grid.append(answer.element);
  }
  closeDetails();
  return answers;
}

function take(event, answers) {
  const answer = answers[event.model];
  switch (event.type) {
    case "token":
      if (answer.tokens.length === 0) say(`${answer.model.name} answers.`);
      answer.add(event);
      break;
    case "end":
      answer.end(event);
      if (answers.length > 1 && event.model === answers.length - 1) say("Comparing the probabilities.");
      break;
    case "divergence":
      answer.diverge(event);
      return;
    case "compared":
      answer.compared(event);
      return;
    case "error":
      answer.note.textContent = event.message;
      return;
    default:
      return;
  }
  for (const other of answers) other.markParting();
}

async function submit(event) {
  event.preventDefault();
  const prompt = byId("prompt").value;
  if (state.abort || prompt.trim() === "") return;
  complain(null);
  const body = JSON.stringify(question(prompt));
  const wasChat = isChat();
  const answers = newTurn(prompt);
  state.abort = new AbortController();
  busy(true);
  say("Waiting for the first token.");
  try {
    const response = await ask({ method: "POST", body, signal: state.abort.signal });
    for await (const document of events(response)) {
      if (document.error) throw new Error(document.error.message);
      take(document, answers);
    }
    answers.forEach((answer) => answer.finish());
    remember(wasChat, prompt, answers);
    say("Done.");
  } catch (error) {
    if (error.name === "AbortError") {
      remember(wasChat, prompt, answers);
      say("Stopped.");
    } else {
      say("");
      failed(error);
    }
  } finally {
    state.abort = null;
    busy(false);
  }
}

/** With one model, a chat goes on. */
function remember(wasChat, prompt, answers) {
  if (!wasChat || answers.length > 1) return;
  const said = answers[0].tokens.filter((token) => !token.isEnd).map((token) => token.text);
  state.messages.push({ role: "user", content: prompt });
  state.messages.push({ role: "assistant", content: said.join("") });
  byId("prompt").value = "";
  byId("clear").hidden = false;
}

function clear() {
  state.messages = [];
  state.answers.clear();
  byId("turns").replaceChildren();
  byId("clear").hidden = true;
  byId("details").hidden = true;
  say("");
  byId("prompt").focus();
}

// ── The page itself ────────────────────────────────────────────────────────────────────────────────

const say = (text) => (byId("status").textContent = text);

function complain(text) {
  byId("problem").hidden = text === null;
  byId("problem").textContent = text ?? "";
}

function failed(error) {
  if (error.status === 401) {
    const isWrong = sessionStorage.getItem("quantkit-key") !== null;
    sessionStorage.removeItem("quantkit-key");
    byId("form").hidden = true;
    byId("key-form").hidden = false;
    byId("key").focus();
    complain(isWrong ? "The server does not know this key." : null);
  } else {
    complain(`The request failed: ${error.message}`);
  }
}

function busy(is) {
  byId("ask").disabled = is;
  byId("stop").disabled = !is;
  byId("turns").setAttribute("aria-busy", String(is));
}

function show(models) {
  state.models = models;
  const names = models.map((model) => model.name);
  const isOne = models.length === 1;
  byId("subtitle").textContent = isOne
    ? `${names[0]} · ${about(models[0])}`
    : `${names[0]}, compared with ${names.slice(1).join(", ")}`;
  // A conversation grows above the form; answers to one question come below it.
  if (!isOne) byId("legend").after(byId("turns"));
  document.title = `${names.join(" | ")} – quantkit`;
  byId("chat-field").hidden = !haveTemplates();
  byId("at-once-field").hidden = isOne;
  byId("at-once-hint").hidden = isOne;
  byId("legend-parts").hidden = isOne;
  byId("temperature").value = isOne && haveTemplates() ? "0.7" : "0";
  byId("prompt-label").textContent = isOne && haveTemplates() ? "Message" : "Prompt";
  byId("key-form").hidden = true;
  byId("form").hidden = false;
  byId("legend").hidden = false;
  // On a phone, the keyboard would cover the page.
  if (matchMedia("(pointer: fine)").matches) byId("prompt").focus();
}

async function start() {
  complain(null);
  try {
    const { models } = await (await ask()).json();
    show(models);
  } catch (error) {
    failed(error);
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("quantkit-key", byId("key").value.trim());
  byId("key").value = "";
  start();
});
byId("form").addEventListener("submit", submit);
byId("stop").addEventListener("click", () => state.abort?.abort());
byId("clear").addEventListener("click", clear);
byId("details-close").addEventListener("click", closeDetails);
byId("at-once").addEventListener("change", (event) => {
  byId("at-once-hint").textContent = event.target.checked
    ? "The models share the machine, so their speeds are lower than alone."
    : "The models answer one after another, so each has the machine to itself.";
});
byId("turns").addEventListener("keydown", onTokenKey);
for (const kind of ["pointerover", "click"]) {
  byId("turns").addEventListener(kind, (event) => {
    if (kind === "pointerover" && event.pointerType !== "mouse") return;
    const found = tokenAt(event.target);
    if (found) found[0].select(found[1], false);
  });
}
document.addEventListener("keydown", (event) => {
  const asks = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  if (asks && !byId("form").hidden) byId("form").requestSubmit();
  if (event.key !== "Escape") return;
  if (state.abort) state.abort.abort();
  else closeDetails();
});
start();
