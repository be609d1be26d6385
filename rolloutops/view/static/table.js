// A table of rollouts that goes on by key as it is scrolled.

import { href, rolloutHref, withParams } from "./address.js";
import { get } from "./api.js";
import { announce, el, put } from "./dom.js";
import { count, number, seconds, shorten, when } from "./format.js";
import { step } from "./keys.js";
import { moment } from "./live.js";

const COLUMNS = [
  ["task_id", "Task", (row, params) => el("a", { href: rolloutHref(row, params) }, shorten(row.task_id))],
  ["dataset", "Dataset", (row) => row.dataset],
  ["policy", "Policy", (row) => row.policy],
  ["rollout_index", "Repeat", (row) => number(row.rollout_index)],
  ["reward", "Reward", (row) => reward(row)],
  ["finish_reason", "Finish reason", (row) => row.finish_reason ?? "–"],
  ["turns", "Turns", (row) => number(row.turns)],
  ["tool_calls", "Tool calls", (row) => tools(row)],
  ["output_tokens", "Output tokens", (row) => number(row.output_tokens)],
  ["seconds", "Time", (row) => seconds(row.seconds)],
  ["label", "Label", (row) => label(row)],
  ["attempt_id", "Started", (row) => when(row.started_at)],
];
const NUMBERS = ["rollout_index", "reward", "turns", "tool_calls", "output_tokens", "seconds"];

function reward(row) {
  if (row.reward === null) return row.verdict_error ?? "–";
  const share = Math.min(Math.max(row.reward, 0), 1);
  return [number(row.reward), el("meter", { min: 0, max: 1, value: share, "aria-hidden": "true" })];
}

function label(row) {
  const score = row.label_score === null ? null : number(row.label_score);
  return [row.label, score].filter((part) => part !== null).join(", ") || "–";
}

function tools(row) {
  if (!row.tool_calls) return number(row.tool_calls);
  return row.tool_errors ? `${row.tool_calls} (${count(row.tool_errors, "error")})` : number(row.tool_calls);
}

/** Make the table. sortBy: called with a column, `-` before it where the greatest is first. */
export function table(sortBy) {
  const body = el("tbody");
  const head = el("tr");
  const end = el("button", { type: "button", class: "end", hidden: true }, "More rows");
  const before = el("p", { class: "before", hidden: true });
  const empty = el("p", { class: "quiet", hidden: true }, "No rollout matches.");
  let params = new URLSearchParams();
  let key = null;
  let busy = null;
  let total = 0;

  function heading([name, label]) {
    const sort = params.get("sort") ?? "-attempt_id";
    const order = sort === name ? "ascending" : sort === `-${name}` ? "descending" : null;
    const next = order === "descending" ? name : order === "ascending" ? `-${name}` : `-${name}`;
    const mark = order === "ascending" ? " ▲" : order === "descending" ? " ▼" : "";
    const button = el("button", { type: "button", onclick: () => sortBy(next) }, label, mark);
    return el("th", { scope: "col", "aria-sort": order, class: NUMBERS.includes(name) ? "number" : null }, button);
  }

  function row(values) {
    const cells = COLUMNS.map(([name, , cell], at) => {
      const kind = NUMBERS.includes(name) ? "number" : null;
      return el(at ? "td" : "th", { scope: at ? null : "row", class: kind }, cell(values, params));
    });
    return el("tr", {}, cells);
  }

  async function more() {
    if (busy) return;
    const asked = withParams(params, { key });
    busy = new AbortController();
    try {
      const page = await get("rows", asked, busy.signal);
      take(page);
      return page.rows.length;
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      busy = null;
    }
  }

  function take(page) {
    const last = page.rows.at(-1);
    const sort = params.get("sort") ?? "-attempt_id";
    body.append(...page.rows.map(row));
    if (last) key = JSON.stringify([last.key, last.attempt_id, last.dataset]);
    end.hidden = !page.more;
    empty.hidden = body.rows.length > 0;
    document.body.dataset.rows = body.rows.length;
    node.setAttribute("data-sort", sort);
  }

  /** Show the first rows of a filter; or those from the rollout on that an address names. */
  async function load(filter, from = null) {
    busy?.abort();
    busy = null;
    params = filter;
    total = moment().rollouts;
    const place = new URLSearchParams(from ?? "");
    const at = from ? { attempt: place.get("attempt"), of: place.get("of") } : {};
    const page = await get("rows", withParams(filter, at));
    put(head, COLUMNS.map(heading));
    put(body);
    key = null;
    before.hidden = !from;
    put(before, el("a", { href: href("/", filter) }, "Show the previous rows"));
    take(page);
    if (from) links()[0]?.focus();
  }

  new IntersectionObserver(
    (seen) => {
      if (seen[0].isIntersecting && !end.hidden) more();
    },
    { rootMargin: "600px" },
  ).observe(end);
  end.addEventListener("click", async () => announce(`${await more()} more rows`));

  const links = () => body.querySelectorAll("th a");
  body.addEventListener("click", (event) => {
    if (event.target.closest("a") || String(getSelection())) return;
    event.target.closest("tr")?.querySelector("a")?.click();
  });
  const node = el(
    "div",
    {},
    before,
    el(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": "Table of rollouts" },
      el("table", { class: "rows" }, el("caption", { class: "unseen-caption" }, "Rollouts"), el("thead", {}, head), body),
    ),
    empty,
    end,
  );
  return {
    node,
    load,
    seen: () => total,
    step: async (by) => {
      if (step(links(), by) >= body.rows.length - 2 && !end.hidden) await more();
    },
    open: () => document.activeElement.closest("tr")?.querySelector("a")?.click(),
  };
}

