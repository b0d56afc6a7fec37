//! The page at `/`, and `/compare` behind it.

use std::path::Path;

use quantkit::engine::{Engine, EngineOptions, LogitsFor, StepItem};
use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::serve::Serving;
use crate::support::{TinyModel, quantkit};

const COMPARE: &str = "/compare";

/// A model and its Q4_0.
fn pair() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let [base, variant] = ["base.gguf", "q4.gguf"].map(|name| directory.path().join(name));
    TinyModel::default().write(&base);
    quantkit().arg("quantize").args([&base, &variant]).args(["--type", "Q4_0"]).assert().success();
    directory
}

fn serve_pair(options: &[&str]) -> Serving {
    let directory = pair();
    let models = ["base.gguf", "q4.gguf"].map(|name| directory.path().join(name));
    Serving::start_models(directory, &models, options)
}

fn of<'a>(events: &'a [Value], kind: &str, model: usize) -> Vec<&'a Value> {
    let fits = |event: &&Value| event["type"] == kind && event["model"] == model;
    events.iter().filter(fits).collect()
}

fn tokens(events: &[Value], model: usize) -> Vec<u32> {
    let ids = of(events, "token", model).into_iter().map(|event| event["id"].as_u64().unwrap());
    ids.map(|id| u32::try_from(id).unwrap()).collect()
}

/// One list out of all windows.
fn gathered(events: &[Value], model: usize, field: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for window in of(events, "divergence", model) {
        assert_eq!(window["from"], all.len());
        all.extend(window[field].as_array().unwrap().iter().cloned());
    }
    all
}

/// A softmax of what a model expects behind each token of a text.
fn expectations(model: &Path, text: &[u32]) -> Vec<Vec<f64>> {
    let mut engine = Engine::load(model, EngineOptions::default()).unwrap();
    let sequence = engine.start(text.len());
    let item = StepItem { sequence, tokens: text, logits: LogitsFor::All };
    let logits = engine.step(&[item]).unwrap();
    let logits = logits.item(0);
    let softmax = |row: &[f32]| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = row.iter().map(|&x| f64::from(x - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / sum).collect()
    };
    (0..text.len()).map(|index| softmax(logits.row(index))).collect()
}

fn likeliest(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, index| if row[index] > row[best] { index } else { best })
}

fn check_divergence(new_tokens: usize) {
    let server = serve_pair(&[]);
    let prompt = "the inner on of what is";
    let body = json!({"prompt": prompt, "max_tokens": new_tokens, "ignore_eos": true});
    let events = server.stream(COMPARE, &body);
    let answer = tokens(&events, 0);
    assert_eq!(answer.len(), new_tokens);
    let directory = server.directory.path();
    let base = directory.join("base.gguf");
    let engine = Engine::load(&base, EngineOptions::default()).unwrap();
    let prompt = engine.vocabulary().encode(prompt, true).unwrap();
    assert_eq!(events[0]["prompt_tokens"], json!([prompt.len(), prompt.len()]));
    let text = [&prompt[..], &answer].concat();
    let expected = expectations(&base, &text);
    let found = expectations(&directory.join("q4.gguf"), &text);
    let kl = |position: usize| -> f64 {
        let (p, q) = (&expected[position - 1], &found[position - 1]);
        p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
    };
    let told: Vec<f64> = gathered(&events, 1, "kl").iter().map(|kl| kl.as_f64().unwrap()).collect();
    assert_eq!(told.len(), new_tokens);
    let values = (prompt.len()..text.len()).map(kl);
    // In windows, a sequence is computed in other steps, which round otherwise.
    let (mut sum, slack) = (0.0, if new_tokens > 256 { 0.1 } else { 1e-5 });
    for (index, (value, told)) in values.zip(&told).enumerate() {
        assert!((value - told).abs() <= slack * value + 1e-6, "{index}: {value} and {told}");
        sum += told;
    }
    let compared = of(&events, "compared", 1)[0];
    assert!((compared["mean_kl"].as_f64().unwrap() - sum / new_tokens as f64).abs() < 1e-9);
    assert_eq!(compared["tokens"], new_tokens);
    assert!(sum > 0.0);
    if new_tokens <= 256 {
        let same = gathered(&events, 1, "same_top");
        for (index, same) in same.iter().enumerate() {
            let position = prompt.len() + index - 1;
            let expected = likeliest(&expected[position]) == likeliest(&found[position]);
            assert_eq!(*same, json!(expected), "{index}");
        }
    }
    // The reference's own answer is what it finds likeliest.
    let position = prompt.len() - 1;
    assert_eq!(likeliest(&expected[position]), answer[0] as usize);
    assert_eq!(of(&events, "end", 1)[0]["completion_tokens"], new_tokens);
}

#[test]
fn the_divergence_is_that_of_the_whole_vocabulary() {
    check_divergence(40);
}

#[test]
fn a_long_answer_is_compared_in_windows() {
    check_divergence(400);
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let directory = tempfile::tempdir().unwrap();
    let models = ["one.gguf", "two.gguf"].map(|name| directory.path().join(name));
    models.iter().for_each(|path| TinyModel::default().write(path));
    let server = Serving::start_models(directory, &models, &[]);
    for at_once in [false, true] {
        let messages = json!([{"role": "user", "content": "the inner"}]);
        let body = json!({"messages": messages, "max_tokens": 20, "at_once": at_once});
        let events = server.stream(COMPARE, &body);
        assert_eq!(tokens(&events, 0), tokens(&events, 1));
        let kl = gathered(&events, 1, "kl");
        assert!(!kl.is_empty() && kl.iter().all(|kl| *kl == json!(0.0)), "{kl:?}");
        assert_eq!(of(&events, "compared", 1)[0]["same_top"], 1.0);
        // The end of a turn is a token that was expected, too.
        let end = of(&events, "end", 0)[0];
        assert_eq!(end["completion_tokens"], kl.len());
        assert!(end["seconds_to_first_token"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn models_of_other_vocabularies_answer_and_are_not_compared() {
    let directory = tempfile::tempdir().unwrap();
    let models = ["one.gguf", "two.gguf"].map(|name| directory.path().join(name));
    models.iter().for_each(|path| TinyModel::default().write(path));
    let mut bytes = std::fs::read(&models[1]).unwrap();
    let name = b"<|im_end|>";
    let places: Vec<usize> =
        (0..bytes.len() - name.len()).filter(|&at| bytes[at..].starts_with(name)).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place..place + name.len()].copy_from_slice(b"<|im_fin|>");
    }
    std::fs::write(&models[1], bytes).unwrap();
    let server = Serving::start_models(directory, &models, &[]);
    let events = server.stream(COMPARE, &json!({"prompt": "the inner", "max_tokens": 5}));
    assert!(!tokens(&events, 0).is_empty() && !tokens(&events, 1).is_empty());
    let error = of(&events, "error", 1)[0]["message"].as_str().unwrap();
    assert!(error.contains("\"<|im_end|>\" in one vocabulary and \"<|im_fin|>\""), "{error}");
    assert!(of(&events, "divergence", 1).is_empty() && of(&events, "compared", 1).is_empty());
    let listed = server.get(COMPARE).1;
    assert!(
        listed["models"][1]["incomparable"].is_string()
            && listed["models"][0]["incomparable"].is_null()
    );
}

#[test]
fn one_model_just_answers() {
    let server = Serving::start(&[]);
    let events =
        server.stream(COMPARE, &json!({"prompt": "the inner", "max_tokens": 6, "top_logprobs": 2}));
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds.first(), Some(&"start"));
    assert_eq!(kinds.last(), Some(&"end"));
    assert!(kinds[1..kinds.len() - 1].iter().all(|kind| *kind == "token"));
    let first = &events[1];
    assert_eq!((&first["rank"], first["top"].as_array().unwrap().len()), (&json!(1), 2));
    assert_eq!(first["top"][0]["logprob"], first["logprob"]);
    // The same text as from OpenAI's path.
    let text: String =
        of(&events, "token", 0).iter().map(|event| event["text"].as_str().unwrap()).collect();
    let body = json!({"prompt": "the inner", "max_tokens": 6, "temperature": 0});
    assert_eq!(server.post("/v1/completions", &body).1["choices"][0]["text"], json!(text));
}

#[test]
fn what_cannot_be_compared_is_refused_in_words() {
    let server = serve_pair(&[]);
    for (body, status, words) in [
        (json!({}), 400, "expected \"prompt\", a text, or \"messages\""),
        (json!({"prompt": "a", "messages": []}), 400, "expected \"prompt\", a text"),
        (json!({"prompt": ["a"]}), 400, "expected \"prompt\", a text"),
        (json!({"prompt": "a", "models": ["q4", "nobody"]}), 404, "there is no model \"nobody\""),
        (json!({"prompt": "a", "models": ["q4", "q4.gguf", "q4"]}), 404, "there is no model"),
        (json!({"prompt": "a", "models": ["q4", "q4"]}), 400, "at most 8 models, each once"),
        (json!({"prompt": "a", "n": 2}), 400, "n"),
        (json!({"prompt": "a", "stop": "x"}), 400, "stop"),
        (json!({"prompt": "a", "top_logprobs": 21}), 400, "top_logprobs"),
        (json!({"prompt": "the ".repeat(600)}), 400, "available context size of 512"),
    ] {
        let (found, answer) = server.post(COMPARE, &body);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(found == status && message.contains(words), "{body}: {found} {answer}");
    }
    // The models' order is that of the request.
    let body = json!({"prompt": "the inner", "models": ["q4", "base"], "max_tokens": 2});
    assert_eq!(server.stream(COMPARE, &body)[0]["models"], json!(["q4", "base"]));
}

#[test]
fn the_page_is_open_and_asks_for_nothing_foreign() {
    let server = Serving::start(&["--api-key", "secret"]);
    let mut texts = Vec::new();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/page.svg", "image/svg+xml"),
    ] {
        let mut response = ureq::get(format!("{}{path}", server.address)).call().unwrap();
        assert_eq!(response.headers()["content-type"], kind, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_string();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        let text = response.body_mut().read_to_string().unwrap();
        let foreign = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!foreign.contains("http:") && !foreign.contains("https:"), "{path}");
        texts.push(text);
    }
    assert_eq!(server.get(COMPARE).0, 401);
    // What the policy forbids is not there, and text never becomes HTML.
    let (page, script) = (&texts[0], &texts[2]);
    let inline = Regex::new(r#"<style|style="|<script>|\son[a-z]+="#).unwrap();
    assert!(!inline.is_match(page));
    let html =
        Regex::new(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(").unwrap();
    assert!(!html.is_match(script));
    // What the script looks for is on the page.
    let ids = Regex::new(r#"byId\("([^"]+)"\)"#).unwrap();
    let mut count = 0;
    for id in ids.captures_iter(script) {
        assert!(page.contains(&format!("id=\"{}\"", &id[1])), "{}", &id[1]);
        count += 1;
    }
    assert!(count > 20);
}
