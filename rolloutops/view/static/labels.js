// What a person says of a rollout: label, score and note, all by keys. Each is saved when its field is left.

import { get, post } from "./api.js";
import { announce, el, put } from "./dom.js";
import { when } from "./format.js";
import { bind } from "./keys.js";

let saving = Promise.resolve();

/** Wait for what is being saved. False, once: it could not be saved, and the page says why. */
export async function saved() {
  document.activeElement?.blur();
  try {
    await saving;
    return true;
  } catch {
    saving = Promise.resolve();
    return false;
  }
}

/** Fill the section of labels. source: names the rollout. file: a file is viewed, which has no place for labels. */
export function labels(node, source, file) {
  const answer = el("p", { class: "quiet", role: "status" });
  const heading = el("h2", {}, "Label");
  if (file) return put(node, heading, el("p", { class: "quiet" }, "A file has no place for labels: import it into a workspace."));
  const picks = el("div", { class: "picks", role: "group", "aria-label": "Labels" });
  const fields = {
    label: el("input", { id: "label", autocomplete: "off", maxlength: 200 }),
    score: el("input", { id: "score", inputmode: "decimal", autocomplete: "off" }),
    note: el("textarea", { id: "note", rows: 2, maxlength: 20000 }),
  };
  let now = { label: null, score: null, note: null };
  let names = [];

  const shown = (name) => (now[name] === null || name === "label" ? "" : String(now[name]));

  function fill(found) {
    now = found.now ?? { label: null, score: null, note: null };
    names = found.names;
    for (const name of Object.keys(fields)) if (fields[name] !== document.activeElement) fields[name].value = shown(name);
    put(picks, names.map(pick));
    picks.hidden = !names.length;
    put(answer, found.now ? `By ${now.author}, ${when(now.created_at)}` : "Nothing yet");
    document.body.dataset.label = now.label ?? "";
  }

  function pick(name, at) {
    const key = at < 9 ? el("kbd", {}, at + 1) : null;
    return el("button", { type: "button", "aria-pressed": String(name === now.label), onclick: () => toggle(name) }, key, key && " ", name);
  }

  /** Save a change, after those before it; what is said of the rollout is shown once it is on disk. */
  function save(change) {
    put(answer, "Saving …");
    saving = saving.catch(() => {}).then(async () => {
      try {
        fill(await post("label", { ...Object.fromEntries(source), ...change }));
        announce(now.label ? `Saved: ${now.label}` : "Saved");
      } catch (error) {
        put(answer, el("span", { class: "error" }, error.message));
        throw error;
      }
    });
    saving.catch(() => {});
  }

  const toggle = (name) => save({ label: name === now.label ? null : name });

  function leave(name) {
    const text = fields[name].value.trim();
    if (text === shown(name)) return;
    if (name === "label") fields.label.value = "";
    if (name !== "score") return save({ [name]: text || null });
    const score = text === "" ? null : Number(text.replace(",", "."));
    if (score !== null && !Number.isFinite(score)) return put(answer, el("span", { class: "error" }, `A score is a number, not ${text}`));
    save({ score });
  }

  for (const [name, field] of Object.entries(fields)) {
    field.addEventListener("blur", () => leave(name));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") field.value = shown(name);
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      field.blur();
    });
  }
  const row = (name, text, key) => [el("label", { for: name }, text, " ", el("kbd", {}, key)), fields[name]];
  put(node, heading, picks, el("div", { class: "fields" }, row("label", "New label", "l"), row("score", "Score", "s"), row("note", "Note", "c")), answer);

  for (let at = 1; at <= 9; at++) bind(String(at), at === 1 ? "the first label, or take it away; 2 to 9 the others" : null, () => names[at - 1] && toggle(names[at - 1]));
  bind("l", "write a new label", () => fields.label.focus());
  bind("s", "give a score", () => fields.score.select());
  bind("c", "write a note", () => fields.note.focus());
  bind("x", "take label, score and note away", () => (now.label ?? now.score ?? now.note) !== null && save({ withdraw: true }));
  const load = () => get("labels", source).then(fill, (error) => put(answer, el("span", { class: "error" }, error.message)));
  document.addEventListener("moment", () => saving.then(load, () => {}));
  return load();
}
