// One turn of a conversation.

import { withParams } from "./address.js";
import { get } from "./api.js";
import { el, put } from "./dom.js";
import { count, number, when } from "./format.js";
import { block, visible } from "./text.js";

/** A token less likely than the first is shaded, one less likely than the last is shaded most. */
const LEVELS = [0.9, 0.7, 0.5, 0.25, 0.05];

/** Make a turn. source: the parameters that name the rollout. */
export function turn(one, source) {
  const title = el("h2", { id: `turn-${one.number}` }, one.role ?? "message", one.name ? ` ${one.name}` : "");
  const marks = [one.prompt ? "prompt" : null, one.time ? when(one.time * 1000) : null].filter(Boolean);
  return el(
    "article",
    { class: `turn ${role(one.role)}${one.prompt ? " prompt" : ""}`, tabindex: "-1", "aria-labelledby": `turn-${one.number}` },
    el("header", {}, title, el("span", { class: "quiet" }, [`${one.number + 1}`, ...marks].join(" · "))),
    one.reasoning ? reasoning(one.reasoning, source) : null,
    one.text.length ? block(one.text, source, "this text") : null,
    one.media.map((medium, place) => media(medium, one.number, place, source)),
    one.calls.map((call) => toolCall(call, source)),
    one.tokens ? tokens(one, source) : null,
  );
}

function role(name) {
  return ["system", "user", "assistant", "tool"].includes(name) ? name : "other";
}

function reasoning(cut, source) {
  return el("details", { class: "reasoning" }, el("summary", {}, `Reasoning (${count(cut.length, "character")})`), block(cut, source, "the reasoning"));
}

function toolCall(call, source) {
  const result = call.result
    ? el("div", { class: "result" }, el("h4", {}, "Result ", el("span", { class: "quiet" }, String(call.result.number + 1))), block(call.result.text, source, "the result"), call.result.media.map((medium, place) => media(medium, call.result.number, place, source)))
    : el("p", { class: "quiet" }, "no result");
  return el(
    "div",
    { class: "call" },
    el("div", {}, el("h3", {}, "Calls ", el("code", { dir: "auto" }, visible(call.name ?? "?"))), block(call.arguments, source, "the arguments")),
    result,
  );
}

/** A picture of this machine is shown; what lies elsewhere is a link that nobody follows unasked. */
function media(medium, turnNumber, place, source) {
  const { reference } = medium;
  if (medium.medium === "image" && medium.scheme === "data") return el("img", { src: reference, alt: "image of the message" });
  if (medium.medium === "image" && medium.local) {
    const image = el("img", { src: `/image?${withParams(source, { turn: turnNumber, place })}`, alt: reference, loading: "lazy" });
    image.addEventListener("error", () => image.replaceWith(el("p", { class: "quiet" }, `image ${reference}: it cannot be read`)));
    return image;
  }
  if (medium.scheme === "http" || medium.scheme === "https") {
    const link = el("a", { href: reference, rel: "noreferrer noopener", target: "_blank" }, visible(reference));
    return el("p", {}, `${medium.medium}: `, link);
  }
  return el("p", { class: "quiet" }, `${medium.medium}: `, visible(reference.slice(0, 200)));
}

/** Token ids, shaded by their log-prob, fetched when they are unfolded. */
function tokens(one, source) {
  const body = el("div");
  const node = el("details", { class: "tokens" }, el("summary", {}, `Token ids (${number(one.tokens)})`), body);
  node.addEventListener("toggle", async () => {
    if (!node.open || body.firstChild) return;
    put(body, "Loading …");
    try {
      put(body, shaded(await get("tokens", withParams(source, { call: one.call }))));
    } catch (error) {
      put(body, error.message);
    }
  });
  return node;
}

function shaded(found) {
  const spans = found.ids.map((id, at) => {
    const prob = found.log_probs[at];
    const level = prob === undefined || prob === null ? 0 : LEVELS.filter((least) => Math.exp(prob) < least).length;
    return el("span", { class: `token level-${level}`, title: prob === undefined ? null : `log-prob ${number(prob)}` }, String(id));
  });
  const legend = `after ${count(found.prompt_tokens, "prompt token")}; the less likely a token, the stronger its shade and the thicker its line`;
  return [el("p", { class: "quiet" }, legend), el("p", { class: "ids" }, spans)];
}
