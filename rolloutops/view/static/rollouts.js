// The page of rollouts: a filter beside a table that goes on as it is scrolled.

import { filterParams, href, withParams } from "./address.js";
import { get } from "./api.js";
import { condition } from "./condition.js";
import { el, put } from "./dom.js";
import { facets } from "./facets.js";
import { count, number } from "./format.js";
import { histogram } from "./histogram.js";
import { bind } from "./keys.js";
import { save } from "./save.js";
import { search } from "./search.js";
import { table } from "./table.js";

export async function show(main) {
  const parts = {
    total: el("p", { class: "total", role: "status" }),
    news: el("p", { class: "news", hidden: true }),
    facets: el("div", { class: "facets" }),
    histogram: el("section", { class: "histogram", "aria-label": "Rewards" }),
  };
  let loaded = null;
  const form = condition(filterParams().get("where") ?? "", (where) => go({ where: where || null }));
  const rows = table((sort) => go({ sort }));

  /** Show the filter with some changes, and put it into the address. */
  async function go(changes) {
    const params = withParams(filterParams(), changes);
    history.pushState(null, "", href("/", params));
    await load();
  }

  async function load() {
    const params = filterParams();
    loaded = params;
    form.clear();
    parts.news.hidden = true;
    // Counts are worked out while the rows come; a wrong condition is told once, by the rows.
    const counts = summary(params).then(() => null, (error) => error);
    try {
      await rows.load(params, new URLSearchParams(location.search).get("attempt") ? location.search : null);
    } catch (error) {
      if (params === loaded) form.fail(error);
      return;
    }
    const error = await counts;
    if (error) throw error;
  }

  async function summary(params) {
    const [totals, bars] = await Promise.all([get("totals", params), get("histogram", params)]);
    if (params !== loaded) return;
    const mean = totals.mean_reward === null ? "" : `, mean reward ${number(totals.mean_reward)}`;
    const all = totals.rollouts === totals.all ? "" : ` of ${number(totals.all)}`;
    parts.total.textContent = `${number(totals.rollouts)}${all} rollout${totals.all === 1 ? "" : "s"}${mean}`;
    put(parts.facets, facets(totals.facets, params, go));
    put(parts.histogram, histogram(bars, params, go));
  }

  const tools = el("div", { class: "tools" }, search(filterParams), save());
  const side = el("details", { class: "side", open: matchMedia("(min-width: 60rem)").matches });
  side.append(el("summary", {}, "Filters"), parts.histogram, parts.facets);
  put(
    main,
    el("h1", {}, "Rollouts"),
    form.node,
    el("div", { class: "split" }, side, el("div", { class: "wide" }, parts.total, parts.news, tools, rows.node)),
  );

  bind("/", "write a condition", () => form.focus());
  bind("j", "next row", () => rows.step(1));
  bind("k", "previous row", () => rows.step(-1));
  bind("Enter", "open the row", () => rows.open());
  bind("Escape", "clear the filter", () => {
    if (String(filterParams())) go(Object.fromEntries([...filterParams().keys()].map((name) => [name, null])));
  });
  addEventListener("popstate", () => {
    form.set(filterParams().get("where") ?? "");
    load();
  });
  document.addEventListener("moment", async (event) => {
    const more = event.detail.rollouts - rows.seen();
    await summary(loaded);
    if (more > 0) {
      put(parts.news, el("button", { type: "button", onclick: load }, `Show ${count(more, "new rollout")}`));
      parts.news.hidden = false;
    }
  });
  await load();
}
