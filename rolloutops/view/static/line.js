// One line of a training file: the conversations in it, its tokens where it has some, and the line itself.

import { el } from "./dom.js";
import { number } from "./format.js";
import { json, visible } from "./text.js";

const LISTS = ["messages", "conversations", "conversation", "prompt", "completion", "chosen", "rejected", "input", "output"];
const TEXTS = ["instruction", "input", "prompt", "completion", "chosen", "rejected", "response", "output", "text", "system"];

/** Make a line. value: its JSON. below: nodes that stand under its number. last: those before the line itself. */
export function line({ line: number_, value, text, reason }, below, last) {
  const whole = el("details", {}, el("summary", {}, `The line (${number(text.length)} characters)`));
  whole.addEventListener("toggle", () => whole.open && whole.children.length === 1 && whole.append(value === null ? el("pre", { class: "text json" }, visible(text)) : json(value)));
  return el(
    "article",
    { class: "turn other", tabindex: "-1", "aria-labelledby": `line-${number_}` },
    el("h2", { id: `line-${number_}` }, `Line ${number(number_)}`),
    below,
    reason ? el("p", { class: "error" }, reason) : null,
    parts(value).map(([name, shown]) => el("section", { "aria-label": name }, el("h3", {}, name), shown)),
    tokens(value),
    reason ? null : last,
    whole,
  );
}

function parts(value) {
  if (value === null || typeof value !== "object") return [];
  const input = value.responses_create_params?.input;
  if (isConversation(input)) return [["input", input.map(message)]];
  const lists = LISTS.filter((name) => isConversation(value[name])).map((name) => [name, value[name].map(message)]);
  const texts = TEXTS.filter((name) => typeof value[name] === "string").map((name) => [name, el("pre", { class: "text", dir: "auto" }, visible(value[name]))]);
  const objects = ["chosen", "rejected"].filter((name) => isConversation(value[name]?.messages)).map((name) => [name, value[name].messages.map(message)]);
  return [...lists, ...objects, ...texts];
}

function isConversation(list) {
  return Array.isArray(list) && list.length > 0 && list.every((one) => one && typeof one === "object" && (one.role || one.from));
}

function message(one) {
  const role = one.role ?? one.from;
  const content = one.content ?? one.value ?? "";
  const text = typeof content === "string" ? content : null;
  const rest = Object.fromEntries(Object.entries(one).filter(([name]) => !["role", "from", "content", "value"].includes(name)));
  const kind = { human: "user", gpt: "assistant" }[role] ?? role;
  return el(
    "div",
    { class: `turn ${["system", "user", "assistant", "tool"].includes(kind) ? kind : "other"}` },
    el("h4", {}, String(role)),
    text === null ? json(content) : el("pre", { class: "text", dir: "auto" }, visible(text)),
    Object.keys(rest).length ? json(rest) : null,
  );
}

/** Token ids with the loss mask: those that are trained on are underlined and bold. */
function tokens(value) {
  const ids = value?.input_ids ?? value?.token_ids ?? value?.tokens;
  if (!Array.isArray(ids) || typeof ids[0] !== "number") return null;
  const mask = value.loss_mask ?? value.labels?.map((label) => label !== -100) ?? value.attention_mask;
  const trained = ids.filter((_, at) => mask?.[at]).length;
  const spans = ids.map((id, at) => el("span", { class: mask?.[at] ? "token trained" : "token" }, String(id)));
  const summary = el("summary", {}, `Token ids (${number(ids.length)}, ${number(trained)} of them trained on: bold and underlined)`);
  return el("details", {}, summary, el("p", { class: "ids" }, spans));
}
