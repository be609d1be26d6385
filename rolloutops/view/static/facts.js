// Tables of facts that several pages show.

import { el } from "./dom.js";

/** Make a table. columns: `[heading, cell of a row, is it a number]`; the first cell heads its row. */
export function facts(caption, columns, rows) {
  const head = columns.map(([label, , numeric]) => el("th", { scope: "col", class: numeric ? "number" : null }, label));
  const body = rows.map((row) =>
    el("tr", {}, columns.map(([, cell, numeric], at) => el(at ? "td" : "th", { scope: at ? null : "row", class: numeric ? "number" : null }, cell(row)))),
  );
  return el(
    "div",
    { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)),
  );
}
