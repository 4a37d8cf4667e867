"use strict";

// Numbers as tables write them: 1,319 × 1, +0.191 [+0.159, +0.224], −0.003, 5.2%. NaN for any other text.
function leadingNumber(text) {
  const found = text.replaceAll(",", "").replace("−", "-").match(/^[+-]?\d+(\.\d+)?/);
  return found ? parseFloat(found[0]) : NaN;
}

// Numbers where every text of the column begins with one, else words; empty cells come last either way.
function comparison(texts) {
  const told = texts.filter((text) => text !== "");
  if (told.length && told.every((text) => !Number.isNaN(leadingNumber(text)))) {
    return (one, other) => leadingNumber(one) - leadingNumber(other);
  }
  const words = new Intl.Collator("en", { numeric: true });
  return (one, other) => words.compare(one, other);
}

function sortBy(head) {
  const column = head.cellIndex;
  const rows = [...head.closest("table").tBodies[0].rows];
  const text = (row) => row.cells[column].textContent.trim();
  const compare = comparison(rows.map(text));
  const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((one, other) => {
    const isEmpty = [text(one) === "", text(other) === ""];
    return isEmpty[0] || isEmpty[1] ? isEmpty[0] - isEmpty[1] : sign * compare(text(one), text(other));
  });
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  head.closest("table").tBodies[0].append(...rows);
}

for (const button of document.querySelectorAll("table.sortable th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

const chooser = document.getElementById("problem");
function showChosen() {
  for (const problem of document.querySelectorAll(".problem")) problem.hidden = problem.id !== chooser.value;
}
if (chooser) {
  chooser.addEventListener("change", showChosen);
  showChosen(); // a browser may come back to the page with another choice than the first
}
