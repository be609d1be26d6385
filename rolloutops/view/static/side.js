// Two rollouts side by side, with the first difference marked.

import { rolloutHref } from "./address.js";
import { el } from "./dom.js";
import { number } from "./format.js";
import { turn } from "./turn.js";
import { visible } from "./text.js";

/** Make two columns of what followed the prompt. both: two rollouts. sources: the parameters that name them. */
export function sideBySide(both, sources) {
  const answers = both.map((one) => one.turns.filter((each) => !each.prompt));
  const place = firstDifference(...answers);
  const columns = both.map((one, side) => {
    const nodes = answers[side].map((each, at) => {
      const node = turn(each, sources[side]);
      if (place && at === place.turn) mark(node, each, place);
      return node;
    });
    const facts = one.facts;
    const title = `${facts.policy}, repeat ${facts.rollout_index}: reward ${number(one.verdicts[0]?.reward)}`;
    const rest = one.next === null ? null : el("p", { class: "quiet" }, "More turns are on the rollout's own page.");
    return el("section", { "aria-label": title }, el("h2", {}, el("a", { href: rolloutHref(facts) }, title)), nodes, rest);
  });
  const said = place === null ? "Both are the same, as far as they are shown." : `The first difference is in ${where(answers.map((list) => list[place.turn]))}${place.what ? `, in its ${place.what}` : ""}.`;
  return [el("p", { class: "difference" }, said), el("div", { class: "sides" }, columns)];
}

/** The turn by the number that each side shows. */
function where([left, right]) {
  if (left?.number === right?.number) return `turn ${left.number + 1}`;
  return [[left, "left"], [right, "right"]].filter(([one]) => one).map(([one, side]) => `turn ${one.number + 1} on the ${side}`).join(", ");
}

/** Where two lists of turns part: the turn, what of it, and the character. */
function firstDifference(left, right) {
  for (let at = 0; at < Math.max(left.length, right.length); at += 1) {
    const [a, b] = [left[at], right[at]];
    if (!a || !b) return { turn: at, what: "", at: 0 };
    for (const [what, one, other] of pieces(a, b)) {
      if (one !== other) return { turn: at, what, at: parting(one, other) };
    }
  }
  return null;
}

function pieces(a, b) {
  const found = [
    ["role", a.role ?? "", b.role ?? ""],
    ["reasoning", a.reasoning?.text ?? "", b.reasoning?.text ?? ""],
    ["text", a.text.text, b.text.text],
  ];
  for (let at = 0; at < Math.max(a.calls.length, b.calls.length); at += 1) {
    found.push(["tool calls", called(a.calls[at]), called(b.calls[at])]);
    found.push(["results", a.calls[at]?.result?.text.text ?? "", b.calls[at]?.result?.text.text ?? ""]);
  }
  return found;
}

function called(call) {
  return call ? `${call.name} ${call.arguments.text}` : "";
}

function parting(a, b) {
  let at = 0;
  while (at < a.length && a[at] === b[at]) at += 1;
  return at;
}

/** Mark the place in a turn: the rest of its text, or the whole turn. */
function mark(node, one, place) {
  node.classList.add("differs");
  node.querySelector("header").append(el("strong", { class: "here" }, "first difference"));
  const body = node.querySelector(":scope > pre.text, :scope > div > pre.text");
  if (place.what !== "text" || !body) return;
  const text = one.text.text;
  body.replaceChildren(...visible(text.slice(0, place.at)), el("mark", {}, visible(text.slice(place.at) || "(ends here)")));
}
