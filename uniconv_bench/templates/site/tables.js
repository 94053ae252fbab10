// Tables that sort by a button in each header, and one form that filters the rows of all of
// them and of their plots.
"use strict";

const NUMBERS = /^[-\d.]+/;

function valueOf(cell) {
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text === "-" ? null : NUMBERS.test(text) ? Number.parseFloat(text) : text;
}

function compare(one, other) {
  return typeof one === "number" && typeof other === "number"
    ? one - other
    : String(one).localeCompare(String(other));
}

function sort(table, column, ascending) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
  // What is not there comes last either way.
  keyed.sort(([one], [other]) =>
    one === null || other === null
      ? (one === null) - (other === null)
      : compare(one, other) * (ascending ? 1 : -1));
  body.append(...keyed.map(([, row]) => row));
}

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const measured = [...table.tBodies[0].rows].some((row) => "value" in row.cells[column].dataset);
      const ascending = before ? before === "descending" : !measured; // of scores the best first
      for (const each of headers) each.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending);
    });
  });
}

function fits(row, wanted) {
  return [...wanted].every(([name, value]) => {
    if (!value) return true;
    const own = row.dataset[name];
    return name === "size" ? Number(own) <= Number(value) : own === value; // unknown never fits
  });
}

function makeFilter(form) {
  const rows = [...document.querySelectorAll("table.sortable tbody tr")];
  const dots = document.querySelectorAll(".plot li");
  const apply = () => {
    const wanted = new FormData(form);
    for (const each of [...rows, ...dots]) each.hidden = !fits(each, wanted);
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(apply)); // fields are reset after the event
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
  form.hidden = false;
}

document.querySelectorAll("table.sortable").forEach(makeSortable);
document.querySelectorAll("form#filters").forEach(makeFilter);
