// Shows texts of models: as text, with what cannot be seen made visible, long ones folded.

import { get } from "./api.js";
import { el, put } from "./dom.js";
import { number } from "./format.js";

// Control characters, those of direction, of no width, of lines, and tags.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]|\udb40[\udc00-\udc7f]/g;
const MOST_MARKS = 2000;

/** A text as nodes: each character that cannot be seen is a mark with its name. */
export function visible(text) {
  const nodes = [];
  let at = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (nodes.length > 2 * MOST_MARKS) return [text.replace(UNSEEN, "�")];
    if (found.index > at) nodes.push(text.slice(at, found.index));
    const name = `U+${found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    nodes.push(el("span", { class: "unseen" }, name));
    at = found.index + found[0].length;
  }
  nodes.push(text.slice(at));
  return nodes;
}

/** A block of text. cut: as the server sends it, `{turn, part, text, length}`. source: names the rollout. */
export function block(cut, source, label) {
  const body = el("pre", { class: "text", dir: "auto" }, visible(cut.text));
  if (cut.text.length >= cut.length) return body;
  const left = number(cut.length - cut.text.length);
  const more = el("button", { type: "button", class: "more" }, `Show ${left} more characters of ${label}`);
  more.addEventListener("click", async () => {
    more.disabled = true;
    const params = new URLSearchParams(source);
    params.set("turn", cut.turn);
    params.set("part", cut.part);
    const whole = await get("text", params);
    put(body, visible(whole.text));
    more.remove();
    body.tabIndex = -1;
    body.focus();
  });
  return el("div", {}, body, more);
}

/** JSON, laid out. */
export function json(value) {
  return el("pre", { class: "text json", dir: "auto" }, visible(JSON.stringify(value, null, 2) ?? ""));
}
