// The keys of a page, and the list of them that `?` shows.

import { el } from "./dom.js";

const known = new Map();

/** Bind a key. label: what it does, for the list, which leaves out those without one. */
export function bind(key, label, run) {
  known.set(key, { label, run });
}

/** Listen to keys; those typed into a field stay there, but for Escape, which leaves it. */
export function listen() {
  bind("?", "show the keys", showKeys);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const field = event.target.closest?.("input:not([type=checkbox]), textarea, select");
    if (field) {
      if (event.key === "Escape") field.blur();
      return;
    }
    const found = known.get(event.key);
    if (!found) return;
    event.preventDefault();
    found.run();
  });
}

function showKeys() {
  const names = { "/": "/", Escape: "Esc" };
  const rows = [...known].filter(([, { label }]) => label).map(([key, { label }]) =>
    el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, names[key] ?? key)), el("td", {}, label)),
  );
  const dialog = el(
    "dialog",
    { "aria-labelledby": "keys-title" },
    el("h2", { id: "keys-title" }, "Keys"),
    el("table", {}, el("tbody", {}, rows)),
    el("form", { method: "dialog" }, el("button", { autofocus: true }, "Close")),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** Move the focus among elements: the next one, or the one before. */
export function step(nodes, by) {
  const list = [...nodes];
  const at = list.indexOf(document.activeElement);
  const to = at < 0 ? (by > 0 ? 0 : list.length - 1) : Math.min(Math.max(at + by, 0), list.length - 1);
  list[to]?.focus();
  list[to]?.scrollIntoView({ block: "nearest" });
  return to;
}
