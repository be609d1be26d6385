// The search in texts: hits come while it runs, and it can be stopped.

import { rolloutHref } from "./address.js";
import { announce, el, put } from "./dom.js";
import { count, number } from "./format.js";
import { visible } from "./text.js";

const ROLES = ["assistant", "reasoning", "tool call", "tool", "user", "system"];

/** Make the search. filter: returns the parameters of the filter that it searches within. */
export function search(filter) {
  const field = el("input", { id: "text", name: "text", type: "search", autocomplete: "off", spellcheck: "false" });
  const roles = ROLES.map((role) => el("label", {}, el("input", { type: "checkbox", name: "role", value: role, checked: role === "assistant" }), role));
  const start = el("button", {}, "Search");
  const stop = el("button", { type: "button", hidden: true }, "Stop");
  const state = el("p", { class: "quiet", role: "status" });
  const hits = el("ol", { class: "hits" });
  let running = null;

  const form = el(
    "form",
    { role: "search", "aria-label": "Texts" },
    el("label", { for: "text" }, "Text"),
    " ",
    field,
    el("fieldset", { class: "roles" }, el("legend", {}, "in the text of"), roles),
    start,
    stop,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run();
  });
  stop.addEventListener("click", () => running?.abort());

  async function run() {
    running?.abort();
    const control = new AbortController();
    running = control;
    const params = new URLSearchParams(filter());
    params.set("text", field.value);
    for (const box of form.querySelectorAll("[name=role]:checked")) params.append("role", box.value);
    put(hits);
    stop.hidden = false;
    state.textContent = "Searching …";
    try {
      const response = await fetch(`/api/search?${params}`, { signal: control.signal });
      for await (const line of lines(response.body)) take(line);
    } catch (error) {
      state.textContent = error.name === "AbortError" ? `Stopped. ${state.textContent}` : error.message;
    }
    if (running === control) stop.hidden = true;
    announce(state.textContent);
    document.body.dataset.searched = hits.children.length;
  }

  function take(line) {
    if (line.error) state.textContent = line.error;
    else if (line.hit) hits.append(hit(line.hit, filter()));
    else if (line.full) state.textContent = `The newest ${count(line.hits, "rollout")} with this text. Filter to find others.`;
    else state.textContent = `${count(line.hits, "rollout")} with this text, ${number(line.searched)} of ${number(line.of)} searched`;
  }

  return el("details", { class: "search" }, el("summary", {}, "Search in texts"), form, state, hits);
}

function hit(found, params) {
  const where = [found.dataset, found.policy, found.role].join(" · ");
  return el(
    "li",
    {},
    el("a", { href: rolloutHref(found, params) }, found.task_id),
    el("span", { class: "quiet" }, ` ${where} · reward ${number(found.reward)}`),
    el("p", { class: "text", dir: "auto" }, visible(found.before), el("mark", {}, visible(found.match)), visible(found.after)),
  );
}

/** The JSON lines of a stream, one after the other. */
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}
