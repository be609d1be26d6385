// The page of one task: its rollouts by policy and repeat, and two of them side by side.

import { href, rolloutHref, withParams } from "./address.js";
import { get } from "./api.js";
import { el, put } from "./dom.js";
import { facts } from "./facts.js";
import { count, number } from "./format.js";
import { bind, step } from "./keys.js";
import { sideBySide } from "./side.js";
import { turn } from "./turn.js";

const FEW = 2;

export async function show(main) {
  const search = new URLSearchParams(location.search);
  const source = new URLSearchParams({ of: search.get("of") ?? "", task: search.get("task") ?? "" });
  const one = await get("task", source);
  document.title = `${one.task_id} · rolloutops`;
  const sides = el("div", { id: "sides" });
  const prompt = el("section", { "aria-label": "Prompt" });
  const chosen = choose(one.rollouts, search.get("a"), search.get("b"));
  const picker = pick(one.rollouts, chosen, (a, b) => {
    history.replaceState(null, "", href("/task", withParams(source, { a, b })));
    load(a, b);
  });

  async function load(a, b) {
    const params = [a, b].map((attempt) => new URLSearchParams({ of: one.dataset, attempt }));
    const both = await Promise.all(params.map((each) => get("rollout", each)));
    const asked = both[0].turns.filter((each) => each.prompt);
    const folded = el("details", { open: asked.length <= FEW }, el("summary", {}, `Prompt (${count(asked.length, "turn")})`));
    folded.append(...asked.map((each) => turn(each, params[0])));
    put(prompt, folded);
    put(sides, sideBySide(both, params));
    document.body.dataset.sides = "ready";
  }

  put(
    main,
    el("h1", {}, "Task ", el("span", { class: "name" }, one.task_id)),
    el("p", { class: "quiet" }, one.dataset),
    grid(one),
    failed(one),
    prompt,
    picker,
    sides,
  );
  bind("j", "next turn", () => step(main.querySelectorAll("article"), 1));
  bind("k", "previous turn", () => step(main.querySelectorAll("article"), -1));
  bind("Escape", "to the rollouts of this task's dataset", () => {
    location.href = href("/", new URLSearchParams({ dataset: one.dataset }));
  });
  if (chosen.length === 2) await load(...chosen);
}

/** The two rollouts that are shown: those of the address, else the best of the first policy beside the worst of the last. */
function choose(rollouts, a, b) {
  const known = new Set(rollouts.map((one) => one.attempt_id));
  if (known.has(a) && known.has(b)) return [a, b];
  if (rollouts.length < 2) return rollouts.length ? [rollouts[0].attempt_id, rollouts[0].attempt_id] : [];
  const policies = [...new Set(rollouts.map((one) => one.policy))];
  const of = (policy) => rollouts.filter((one) => one.policy === policy).sort((x, y) => (y.reward ?? -1) - (x.reward ?? -1));
  const first = of(policies[0]);
  const last = of(policies.at(-1));
  return [first[0].attempt_id, last.at(-1).attempt_id];
}

function grid(one) {
  const policies = [...new Set(one.rollouts.map((each) => each.policy))];
  const most = Math.max(0, ...one.rollouts.map((each) => each.rollout_index));
  const repeats = Array.from({ length: most + 1 }, (_, at) => at).filter((at) => one.rollouts.some((each) => each.rollout_index === at));
  const columns = [
    ["Policy", (policy) => policy],
    ["Mean", (policy) => mean(one.rollouts.filter((each) => each.policy === policy)), true],
    ...repeats.map((at) => [`Repeat ${at}`, (policy) => cell(one.rollouts.find((each) => each.policy === policy && each.rollout_index === at)), true]),
  ];
  return facts("Rewards by policy and repeat", columns, policies);
}

function mean(rollouts) {
  const rewards = rollouts.map((one) => one.reward).filter((reward) => reward !== null);
  return rewards.length ? number(rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length) : "–";
}

function cell(one) {
  if (!one) return el("span", { class: "quiet" }, "none");
  const share = Math.min(Math.max(one.reward ?? 0, 0), 1);
  return el("a", { href: rolloutHref(one) }, one.reward === null ? (one.verdict_error ?? "–") : number(one.reward), el("meter", { min: 0, max: 1, value: share, "aria-hidden": "true" }));
}

function failed(one) {
  if (!one.failed.length) return null;
  const columns = [
    ["Policy", (row) => row.policy],
    ["Repeat", (row) => number(row.rollout_index), true],
    ["Attempt", (row) => el("a", { href: rolloutHref(row) }, number(row.attempt)), true],
    ["Error", (row) => row.error],
    ["Later", (row) => (row.healed ? "succeeded" : "missing")],
  ];
  return el("details", {}, el("summary", {}, count(one.failed.length, "failed attempt")), facts("Failed attempts", columns, one.failed));
}

function pick(rollouts, chosen, changed) {
  const select = (name, label, value) =>
    el("label", {}, `${label} `, el("select", { name }, rollouts.map((one) => option(one, value))));
  const form = el("form", { class: "pick", "aria-label": "Side by side" }, select("a", "Left", chosen[0]), " ", select("b", "Right", chosen[1]));
  form.addEventListener("change", () => changed(form.elements.a.value, form.elements.b.value));
  return rollouts.length ? form : null;
}

function option(one, value) {
  const text = `${one.policy}, repeat ${one.rollout_index}: reward ${number(one.reward)}, ${number(one.output_tokens)} tokens`;
  return el("option", { value: one.attempt_id, selected: one.attempt_id === value }, text);
}
