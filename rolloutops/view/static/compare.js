// The page that compares two policies.

import { filterParams, href, taskHref, withParams } from "./address.js";
import { get } from "./api.js";
import { el, put } from "./dom.js";
import { facts } from "./facts.js";
import { count, number, seconds } from "./format.js";
import { interval } from "./interval.js";
import { bind, step } from "./keys.js";

export async function show(main) {
  const search = new URLSearchParams(location.search);
  const policies = await get("policies");
  const body = el("div");
  const [a, b] = [search.get("a") ?? policies[0], search.get("b") ?? policies[1]];
  put(main, el("h1", {}, "Compare two policies"), form(policies, a, b), body);
  bind("j", "next task", () => step(body.querySelectorAll("tbody a"), 1));
  bind("k", "previous task", () => step(body.querySelectorAll("tbody a"), -1));
  if (policies.length < 2) {
    put(body, el("p", {}, `This workspace has ${policies.length ? "one policy" : "no policy"}: a comparison needs two.`));
    return;
  }
  put(body, el("p", { class: "quiet" }, "Comparing …"));
  try {
    put(body, tables(await get("compare", withParams(filterParams(), { a, b }))));
  } catch (error) {
    put(body, el("p", { class: "error", role: "alert" }, error.message));
  }
}

function form(policies, a, b) {
  const select = (name, label, value) =>
    el("label", {}, `${label} `, el("select", { name }, policies.map((policy) => el("option", { value: policy, selected: policy === value }, policy))));
  const node = el("form", { class: "pick", "aria-label": "Policies" }, select("a", "From", a), " ", select("b", "to", b));
  node.addEventListener("change", () => {
    location.href = href("/compare", withParams(filterParams(), { a: node.elements.a.value, b: node.elements.b.value }));
  });
  return policies.length > 1 ? node : null;
}

function tables(found) {
  const source = new URLSearchParams({});
  const signed = (value) => (value === null ? "–" : `${value > 0 ? "+" : ""}${number(value)}`);
  const differences = [
    ["Dataset", (row) => row.dataset],
    ["Tasks", (row) => number(row.tasks), true],
    [found.a, (row) => number(row.mean_a), true],
    [found.b, (row) => number(row.mean_b), true],
    ["Difference", (row) => signed(row.difference), true],
    ["95% interval", (row) => (row.low === null ? "–" : `${signed(row.low)} to ${signed(row.high)}`), true],
    ["Interval beside 0", (row) => interval(row)],
    ["p", (row) => number(row.p_sign_flip), true],
    ["Better", (row) => number(row.better), true],
    ["Worse", (row) => number(row.worse), true],
    ["Equal", (row) => number(row.equal), true],
  ];
  const flips = [
    ["Task", (row) => el("a", { href: taskHref(row, source) }, row.task_id)],
    ["Dataset", (row) => row.dataset],
    [found.a, (row) => number(row.mean_a), true],
    [found.b, (row) => number(row.mean_b), true],
    ["Difference", (row) => signed(row.difference), true],
  ];
  const shapes = [
    ["Dataset", (row) => row.dataset],
    ["Policy", (row) => row.policy],
    ["Rollouts", (row) => number(row.rollouts), true],
    ["Output tokens, median", (row) => number(row.median_output_tokens), true],
    ["90%", (row) => number(row.p90_output_tokens), true],
    ["Truncated", (row) => percent(row.truncated), true],
    ["Turns", (row) => number(row.mean_turns, 2), true],
    ["Tool calls", (row) => number(row.mean_tool_calls, 2), true],
    ["Tool errors", (row) => number(row.mean_tool_errors, 2), true],
    ["Time, median", (row) => seconds(row.median_seconds), true],
  ];
  const tools = [
    ["Tool", (row) => row.tool],
    ["Dataset", (row) => row.dataset],
    [found.a, (row) => percent(row.share_a), true],
    [found.b, (row) => percent(row.share_b), true],
  ];
  const most = found.flips.toSorted((x, y) => Math.abs(y.difference) - Math.abs(x.difference));
  const worse = most.filter((row) => row.difference < 0);
  const better = most.filter((row) => row.difference > 0);
  return [
    el("p", {}, `Mean reward of ${found.b} minus that of ${found.a}, paired by task: each task counts once, with the mean of its repeats.`),
    facts("Paired difference", differences, found.differences),
    el("p", { class: "quiet" }, "The thin line is 0, the bar the interval, the dot the difference. p: how often a difference as large comes about if the sign of each task's difference is random."),
    better.length ? facts(`Tasks on which ${found.b} is better (${count(better.length, "task")}, the largest difference first)`, flips, better) : null,
    worse.length ? facts(`Tasks on which ${found.b} is worse (${count(worse.length, "task")}, the largest difference first)`, flips, worse) : null,
    facts("Lengths", shapes, found.shapes),
    found.tools.length ? facts("Share of rollouts that called a tool", tools, found.tools) : null,
  ];
}

function percent(value) {
  return value === null ? "–" : `${number(value * 100, 1)}%`;
}
