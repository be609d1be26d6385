// Saves the filter as a step beside the recipe.

import { filterParams } from "./address.js";
import { post } from "./api.js";
import { el, put } from "./dom.js";

/** Make the button, and the form that it opens. */
export function save() {
  const field = el("input", { id: "step", name: "step", required: true, pattern: "[a-z][a-z0-9_]*", autocomplete: "off", placeholder: "short_answers" });
  const answer = el("div", { role: "status" });
  const form = el("form", { class: "save" }, el("label", { for: "step" }, "Name of the step "), field, " ", el("button", {}, "Save"), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const done = await post("step", { name: field.value, filter: String(filterParams()) });
      put(answer, el("p", {}, `Written to ${done.path}. To use it, add to the recipe:`), el("pre", { class: "json" }, done.recipe));
    } catch (error) {
      put(answer, el("p", { class: "error" }, [error.message, ...(error.notes ?? [])].join("\n")));
    }
  });
  return el("details", {}, el("summary", {}, "Save the filter as a step"), form);
}
