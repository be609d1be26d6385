// Facets: the values of a column with their counts, of which a reader picks some.

import { el } from "./dom.js";
import { number } from "./format.js";

const LABELS = {
  dataset: "Dataset",
  policy: "Policy",
  finish_reason: "Finish reason",
  error: "Verification error",
  tool: "Tool called",
  label: "Label",
};
const NONE = { error: "no error", tool: "no tool", label: "no label", finish_reason: "none" };
const FEW = 8;

/** Make the lists. go: called with the changed values of one facet. */
export function facets(found, params, go) {
  return Object.entries(found).map(([name, values]) => facet(name, values, params.getAll(name), go));
}

function facet(name, values, picked, go) {
  if (values.length < 2 && !picked.length) return null;
  const absent = picked.filter((value) => !values.some((one) => one.value === value));
  const all = [...absent.map((value) => ({ value, rollouts: 0 })), ...values];
  const items = all.map((one) => item(name, one, picked, go));
  const rest = items.slice(FEW);
  return el(
    "fieldset",
    {},
    el("legend", {}, LABELS[name] ?? name),
    items.slice(0, FEW),
    rest.length ? el("details", {}, el("summary", {}, `${rest.length} more`), rest) : null,
  );
}

function item(name, { value, rollouts }, picked, go) {
  const box = el("input", { type: "checkbox", checked: picked.includes(value) });
  box.addEventListener("change", () => {
    const now = box.checked ? [...picked, value] : picked.filter((one) => one !== value);
    go({ [name]: now.length ? now : null });
  });
  const label = value === "" ? el("i", {}, NONE[name] ?? "none") : value;
  return el("label", { class: "value" }, box, el("span", { class: "name" }, label), el("span", { class: "quiet" }, number(rollouts)));
}
