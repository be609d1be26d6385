// The field for a SQL condition: it completes names of columns and shows where a condition is wrong.

import { get } from "./api.js";
import { announce, el, put } from "./dom.js";

const MOST = 8;
const WORD = /[A-Za-z_]\w*$/;

/** Make the form. apply: called with the condition. */
export function condition(where, apply) {
  const list = el("ul", { role: "listbox", id: "columns", hidden: true, "aria-label": "Columns" });
  const error = el("pre", { class: "error", id: "where-error", role: "alert", hidden: true });
  const field = el("input", {
    id: "where",
    name: "where",
    value: where,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "reward < 0.5 AND tool_calls > 3",
    role: "combobox",
    "aria-expanded": "false",
    "aria-controls": "columns",
    "aria-autocomplete": "list",
    "aria-describedby": "where-error",
  });
  let columns = null;
  let at = -1;

  const word = () => field.value.slice(0, field.selectionStart).match(WORD)?.[0] ?? "";

  async function suggest() {
    columns ??= await get("columns");
    const typed = word().toLowerCase();
    const found = typed ? columns.filter(({ name }) => name.startsWith(typed) && name !== typed).slice(0, MOST) : [];
    at = -1;
    put(list, found.map((column, place) => option(column, place)));
    list.hidden = !found.length;
    field.setAttribute("aria-expanded", String(found.length > 0));
    field.removeAttribute("aria-activedescendant");
  }

  function option({ name, type }, place) {
    const take = (event) => {
      event.preventDefault();
      complete(name);
    };
    const kind = el("span", { class: "quiet" }, ` ${type}`);
    return el("li", { role: "option", id: `column-${place}`, "aria-selected": "false", onmousedown: take, "data-name": name }, name, kind);
  }

  function complete(name) {
    const end = field.selectionStart;
    const start = end - word().length;
    field.setRangeText(name, start, end, "end");
    close();
    field.focus();
  }

  function close() {
    list.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  }

  function choose(by) {
    const options = [...list.children];
    at = (at + by + options.length) % options.length;
    options.forEach((one, place) => one.setAttribute("aria-selected", String(place === at)));
    field.setAttribute("aria-activedescendant", options[at].id);
  }

  field.addEventListener("input", () => suggest().catch(() => close()));
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (list.hidden) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") choose(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Tab" || (event.key === "Enter" && at >= 0)) complete(list.children[Math.max(at, 0)].dataset.name);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });

  const node = el(
    "form",
    { class: "condition", role: "search" },
    el("label", { for: "where" }, "SQL condition"),
    el("div", { class: "field" }, field, list),
    el("button", {}, "Filter"),
    error,
  );
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    close();
    apply(field.value.trim());
  });
  return {
    node,
    focus: () => field.focus(),
    set: (text) => {
      field.value = text;
    },
    clear: () => {
      error.hidden = true;
      field.removeAttribute("aria-invalid");
    },
    fail: (problem) => {
      put(error, [problem.message, ...(problem.notes ?? [])].join("\n"));
      error.hidden = false;
      field.setAttribute("aria-invalid", "true");
      announce("The condition is wrong.");
    },
  };
}
