"use strict";
// Shows the list of changed answers a page at a time, filtered. Without this script it is one table.
(function () {
  const PAGE = 50;
  const body = document.getElementById("flips");
  const form = document.getElementById("flip-filter");
  const pager = document.getElementById("flip-pager");
  const [earlier, later] = pager.querySelectorAll("button");
  const cell = (row, index) => row.cells[index].textContent;
  const all = Array.from(body.rows, (row, rank) => ({
    row,
    rank,
    variant: cell(row, 0),
    number: Number(cell(row, 1)),
    subject: cell(row, 2),
    change: cell(row, 3),
    words: row.textContent.toLowerCase(),
  }));
  let found = all;
  let first = 0;

  function show() {
    body.replaceChildren(...found.slice(first, first + PAGE).map((item) => item.row));
    const last = Math.min(first + PAGE, found.length);
    const range = found.length ? `${first + 1} to ${last} of ${found.length}` : "none found";
    pager.querySelector("span").textContent = range;
    earlier.disabled = first === 0;
    later.disabled = last >= found.length;
  }

  function filter() {
    const wanted = Object.fromEntries(new FormData(form));
    const words = wanted.words.toLowerCase();
    found = all.filter(
      (item) =>
        (!wanted.variant || item.variant === wanted.variant) &&
        (!wanted.change || item.change === wanted.change) &&
        (!wanted.subject || item.subject === wanted.subject) &&
        item.words.includes(words)
    );
    if (wanted.order === "row") {
      found.sort((a, b) => a.number - b.number || a.rank - b.rank);
    }
    first = 0;
    show();
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  earlier.addEventListener("click", () => {
    first = Math.max(0, first - PAGE);
    show();
  });
  later.addEventListener("click", () => {
    first += PAGE;
    show();
  });
  form.hidden = false;
  pager.hidden = false;
  filter();
})();
