// A training line as tokens: those that are trained on are marked, which is a color and a line below.

import { get } from "./api.js";
import { el, put } from "./dom.js";
import { number } from "./format.js";
import { visible } from "./text.js";

let before = Promise.resolve();

/** Make the part of a line that is fetched when it is unfolded, one line after the other. */
export function lineTokens(path, line) {
  const body = el("div", { role: "status" });
  const node = el("details", { class: "mask" }, el("summary", {}, "As tokens with the loss mask"), body);
  node.addEventListener("toggle", () => {
    if (!node.open || body.firstChild) return;
    put(body, "Loading …");
    before = before.then(() => get("line_tokens", new URLSearchParams({ path, line }))).then(
      (found) => {
        body.removeAttribute("role");
        put(body, el("p", { class: "quiet" }, "Tokenizer: ", visible(found.tokenizer)), found.rows.map(row));
      },
      (error) => put(body, el("p", { class: "error" }, error.message)),
    );
  });
  return node;
}

function counts(one) {
  const trained = one.trained === null ? "" : `, ${number(one.trained)} trained`;
  return `${number(one.tokens)} tokens${trained}`;
}

function row(one) {
  const notes = [one.note];
  if (one.shown < one.tokens) notes.push(`the first ${number(one.shown)} tokens are shown; the counts are of all`);
  if (one.unknown) notes.push(`${number(one.unknown)} ids are not in this tokenizer's vocabulary: it is another model's`);
  return el(
    "section",
    { "aria-label": `${one.name} as tokens` },
    el("h3", {}, `Tokens of ${one.name}: ${counts(one)}${one.trained ? " (underlined, on a colored ground)" : ""}`),
    el("p", { class: "quiet" }, visible(notes.join("; "))),
    one.turns.map((turn) => [
      turn.roles.length ? el("h4", {}, visible(turn.roles.join(", ")), el("span", { class: "quiet" }, ` ${counts(turn)}`)) : null,
      turn.pieces.length ? el("p", { class: "pieces", dir: "auto" }, runs(turn)) : null,
    ]),
  );
}

/** The tokens of a turn: those that are trained on, in a row, are one mark. */
function runs({ pieces, mask }) {
  const nodes = [];
  let trained = null;
  pieces.forEach(([id, text, special], at) => {
    if ((mask?.[at] ?? 0) !== trained) {
      trained = mask?.[at] ?? 0;
      nodes.push(el(trained ? "mark" : "span", { class: trained ? "trained" : null }));
    }
    nodes.at(-1).append(el("span", { class: special ? "piece special" : "piece", title: `token ${id}` }, visible(text.replaceAll("\n", "↵\n"))));
  });
  return nodes;
}
