// The page of one rollout: what is known of it beside its turns.

import { filterParams, href, rolloutHref, taskHref, withParams } from "./address.js";
import { get } from "./api.js";
import { add, el, put } from "./dom.js";
import { count, number, seconds, shorten, when } from "./format.js";
import { bind, step } from "./keys.js";
import { labels, saved } from "./labels.js";
import { json, visible } from "./text.js";
import { turn } from "./turn.js";

export async function show(main, moment) {
  const search = new URLSearchParams(location.search);
  const source = new URLSearchParams({ of: search.get("of") ?? "", attempt: search.get("attempt") ?? "" });
  const filter = filterParams();
  const one = await get("rollout", source);
  document.title = `${one.facts.task_id} · rolloutops`;
  const ways = el("nav", { class: "ways", "aria-label": "Neighbors" });
  const list = el("div", { class: "turns" });
  put(
    main,
    el("h1", {}, "Rollout ", el("span", { class: "name" }, shorten(one.facts.task_id, 40))),
    ways,
    el("div", { class: "split" }, aside(one, source), el("section", { class: "wide", "aria-label": "Turns" }, answerLink(one), list)),
  );
  turns(list, one, source);
  const labeled = labels(document.getElementById("labels"), source, moment.file);
  const answer = list.querySelector("article:not(.prompt)");
  if (answer && one.turns[0].prompt) bind("a", "to the answer", () => goTo(answer));
  keys(list, filter);
  neighbors(ways, filter, source, one.facts).catch((error) => put(ways, el("p", { class: "error" }, error.message)));
  await labeled;
}

/** What people say of the rollout, which stays in sight beside its turns, and what is known of it. */
function aside(one, source) {
  const facts = one.facts;
  const tokens = [`${number(facts.input_tokens)} in`, `${number(facts.output_tokens)} out`];
  if (facts.reasoning_tokens) tokens.push(`${number(facts.reasoning_tokens)} reasoning`);
  if (facts.cached_tokens) tokens.push(`${number(facts.cached_tokens)} cached`);
  const times = [`model ${seconds(facts.model_seconds)}`, `tools ${seconds(facts.tool_seconds)}`];
  return el(
    "div",
    { class: "side" },
    el("section", { id: "labels", "aria-label": "Label" }),
    pairs([
      ["Dataset", facts.dataset],
      ["Task", facts.task_id],
      ["Policy", facts.policy],
      ["Repeat", number(facts.rollout_index)],
      ["Attempt", facts.attempt_id],
      ["Model", facts.model],
      ["Error", facts.error],
      ["Message", facts.error_message],
      ["Finish reason", facts.finish_reason],
      ["Tokens", facts.input_tokens === null && facts.output_tokens === null ? null : tokens.join(", ")],
      ["Time", facts.seconds === null ? null : `${seconds(facts.seconds)} (${times.join(", ")})`],
      ["Started", facts.started_at && when(facts.started_at)],
      ["Input", facts.origin && `${facts.origin} line ${facts.line}`],
      ["Expected answer", facts.answer],
    ]),
    one.verdicts.map(verdict),
    uses(source),
    folded("Sampling parameters", () => json(one.request), one.request),
    folded("Tools offered", () => json(one.tools), one.tools),
    Object.entries(one.raw).map(([name, length]) => raw(name, length, source)),
  );
}

function pairs(list) {
  const shown = list.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", {}, shown.map(([name, value]) => [el("dt", {}, name), el("dd", { dir: "auto" }, visible(String(value)))]));
}

function verdict(one, at) {
  const metrics = Object.entries(one.metrics ?? {}).filter(([name]) => name !== "reward");
  const title = at === 0 ? "Verdict" : "Earlier verdict";
  const rows = [
    ["Reward", number(one.reward)],
    ["Verifier", [one.verifier, one.verifier_version].filter(Boolean).join(" ")],
    ["Error", one.error && [one.error, one.error_message].filter(Boolean).join(": ")],
    ...metrics.map(([name, value]) => [name, number(value)]),
  ];
  return el("section", { class: "verdict" }, el("h2", {}, title), pairs(rows), folded("Details", () => json(one.details), one.details));
}

const ROLES = {
  completion: "its answer",
  chosen: "its answer, as the better one",
  rejected: "its answer, as the worse one",
  evidence: "its reward, in the figures of the task",
};

/** The lines of builds that it went into. */
function uses(source) {
  const node = el("section", { "aria-label": "Builds" });
  get("uses", source).then((found) => {
    const links = found.map((use) =>
      el("li", {}, el("a", { href: href("/builds", new URLSearchParams({ path: use.path, line: use.line })) }, `${use.path.split("/").slice(-2).join("/")} line ${use.line}`), `: ${ROLES[use.role] ?? use.role}`),
    );
    if (links.length) put(node, el("h2", {}, "Used in builds"), el("ul", {}, links));
  }, () => {});
  return node;
}

/** A part that is made when it is unfolded. */
function folded(title, make, value) {
  if (value === null || value === undefined || (Array.isArray(value) && !value.length)) return null;
  const node = el("details", {}, el("summary", {}, title));
  node.addEventListener("toggle", () => node.open && node.children.length === 1 && node.append(make()));
  return node;
}

const RAW = { request: "Raw request", response: "Raw response", task: "Raw task" };

function raw(name, length, source) {
  return folded(`${RAW[name]} (${number(length)} characters)`, () => {
    const node = el("pre", { class: "text json" }, "Loading …");
    get("raw", withParams(source, { name })).then(
      ({ text }) => put(node, visible(pretty(text))),
      (error) => put(node, error.message),
    );
    return node;
  }, length);
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Show turns; the next ones when the last one comes near. */
function turns(list, page, source) {
  add(list, page.turns.map((one) => turn(one, source)));
  document.body.dataset.turns = list.querySelectorAll("article").length;
  if (page.next === null) return;
  const end = el("button", { type: "button", class: "end" }, `More turns (${number(page.total - page.next)} left)`);
  const more = async () => {
    watch.disconnect();
    end.disabled = true;
    const next = await get("turns", withParams(source, { from: page.next }));
    end.remove();
    turns(list, next, source);
  };
  const watch = new IntersectionObserver((seen) => seen[0].isIntersecting && more(), { rootMargin: "600px" });
  end.addEventListener("click", more);
  list.append(end);
  watch.observe(end);
}

/** A link past a long prompt. */
function answerLink(one) {
  const answer = one.turns.find((each) => !each.prompt);
  if (!answer || one.turns.indexOf(answer) < 3) return null;
  return el("p", {}, el("a", { href: `#turn-${answer.number}` }, "To the answer"), el("span", { class: "quiet" }, " ", el("kbd", {}, "a")));
}

function goTo(node) {
  node.focus();
  node.scrollIntoView({ block: "start" });
}

function keys(list, filter) {
  const here = new URLSearchParams(location.search);
  const place = { of: here.get("of"), attempt: here.get("attempt") };
  bind("j", "next turn", () => step(list.querySelectorAll("article"), 1));
  bind("k", "previous turn", () => step(list.querySelectorAll("article"), -1));
  bind("Escape", "back to the rollouts", () => leave(href("/", withParams(filter, place))));
}

/** Go to another page, once what a person said of this rollout is saved. */
async function leave(address) {
  if (await saved()) location.href = address;
}

const WAYS = [
  ["row-previous", "p", "previous row", "‹ Row"],
  ["row-next", "n", "next row", "Row ›"],
  ["repeat-previous", "[", "previous repeat", "‹ Repeat"],
  ["repeat-next", "]", "next repeat", "Repeat ›"],
];

/** Links to the rows before and after in the filter, and to the other repeats of the task. */
async function neighbors(ways, filter, source, task) {
  const found = await get("neighbors", withParams(filter, Object.fromEntries(source)));
  const at = found.repeats.findIndex((one) => one.attempt_id === source.get("attempt"));
  const targets = {
    "row-previous": found.previous,
    "row-next": found.next,
    "repeat-previous": at > 0 ? found.repeats[at - 1] : null,
    "repeat-next": at >= 0 ? (found.repeats[at + 1] ?? null) : null,
  };
  const links = WAYS.map(([name, key, label, text]) => {
    const target = targets[name];
    bind(key, label, () => target && leave(rolloutHref(target, filter)));
    if (!target) return el("span", { class: "way off", "aria-hidden": "true" }, text);
    return el("a", { class: "way", href: rolloutHref(target, filter), title: `${label} (${key})`, "aria-label": label }, text);
  });
  const place = at < 0 ? null : el("span", { class: "quiet" }, `repeat ${task.rollout_index}, ${count(found.repeats.length, "repeat")} in all`);
  put(ways, links, place, el("a", { class: "way", href: taskHref(task) }, "Task"), el("a", { class: "way", href: href("/", withParams(filter, Object.fromEntries(source))) }, "All rows"));
  document.body.dataset.neighbors = "ready";
}
