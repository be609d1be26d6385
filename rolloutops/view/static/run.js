// The page of runs: what runs now, how far each policy is, and the pace of a run.

import { href, withParams } from "./address.js";
import { get } from "./api.js";
import { el, put } from "./dom.js";
import { facts } from "./facts.js";
import { count, number, seconds, when } from "./format.js";
import { bind, step } from "./keys.js";
import { bars } from "./bars.js";

const PAUSE = 3000;

export async function show(main) {
  const params = new URLSearchParams();
  const run = new URLSearchParams(location.search).get("run");
  if (run) params.set("run", run);
  const body = el("div");
  put(main, el("h1", {}, "Runs"), body);
  const load = async () => {
    const open = document.activeElement?.closest?.("a")?.getAttribute("href");
    put(body, parts(await get("runs", params)));
    if (open) body.querySelector(`a[href="${CSS.escape(open)}"]`)?.focus();
  };
  bind("j", "next run", () => step(body.querySelectorAll("tbody a"), 1));
  bind("k", "previous run", () => step(body.querySelectorAll("tbody a"), -1));
  document.addEventListener("moment", load);
  setInterval(async () => {
    if (!document.hidden && body.querySelector(".running")) await load().catch(() => {});
  }, PAUSE);
  await load();
}

function parts(found) {
  return [
    found.running.map(now),
    progress(found.progress),
    pace(found),
    found.runs.length ? list(found) : null,
  ];
}

function now(one) {
  const rate = one.per_second ? `${number(one.per_second * 60, 1)} per minute` : null;
  const tokens = one.tokens_per_second ? `${number(one.tokens_per_second, 0)} tokens per second` : null;
  const told = [`${number(one.done)} ${one.noun} done`, one.failed ? `${number(one.failed)} failed` : null, `${number(one.in_flight)} running`, rate, tokens];
  return el("p", { class: "running" }, el("strong", {}, "Running: "), `${one.run_id} on ${one.host}: `, told.filter(Boolean).join(", "));
}

function progress(rows) {
  const columns = [
    ["Dataset", (row) => row.dataset],
    ["Policy", (row) => row.policy],
    ["Wanted", (row) => number(row.wanted), true],
    ["Done", (row) => number(row.rollouts), true],
    ["Share done", (row) => (row.wanted ? el("meter", { min: 0, max: row.wanted, value: Math.min(row.rollouts, row.wanted), "aria-hidden": "true" }) : "")],
    ["Verified", (row) => number(row.verified), true],
    ["Mean reward of rollouts", (row) => number(row.mean_reward), true],
    ["Input tokens", (row) => number(row.input_tokens), true],
    ["Output tokens", (row) => number(row.output_tokens), true],
    ["Failed attempts", (row) => number(row.failures), true],
  ];
  return facts("Progress", columns, rows);
}

function pace(found) {
  if (!found.pace.length) return null;
  const { low, high } = found.pace[0];
  const span = (high - low) / 1000;
  const values = (name) => {
    const list = Array(found.spans).fill(0);
    for (const row of found.pace) list[row.place] = row[name] ?? 0;
    return list;
  };
  const each = `each bar is ${seconds(span / found.spans)}`;
  const plot = (name, title) => {
    const list = values(name);
    const sum = list.reduce((total, value) => total + value, 0);
    return bars(list, `${title}: ${number(sum)} in ${seconds(span)}, ${each}, ${number(Math.max(...list))} at most`);
  };
  return el(
    "section",
    { "aria-label": "Pace" },
    el("h2", {}, `Pace of ${found.shown}`),
    el("p", { class: "quiet" }, `${when(low)} to ${when(high)}`),
    el("div", { class: "plots" }, plot("rollouts", "Rollouts"), plot("tokens", "Output tokens"), plot("failures", "Failed attempts")),
  );
}

function list(found) {
  const columns = [
    ["Run", (row) => el("a", { href: href("/run", withParams(new URLSearchParams(), { run: row.run_id })), "aria-current": row.run_id === found.shown ? "true" : null }, row.run_id)],
    ["Command", (row) => row.command],
    ["Began", (row) => when(row.began)],
    ["Took", (row) => seconds(row.seconds)],
    ["Exit code", (row) => number(row.exit_code), true],
    ["Machine", (row) => row.host ?? "–"],
    ["Git commit of its folder", (row) => row.git_commit?.slice(0, 12) ?? "–"],
  ];
  return facts(`The last ${count(found.runs.length, "run")}`, columns, found.runs);
}
