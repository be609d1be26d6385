// The page of builds: their files, and the lines of one with the rollouts behind each.

import { href, rolloutHref } from "./address.js";
import { get } from "./api.js";
import { el, put } from "./dom.js";
import { facts } from "./facts.js";
import { count, number, when } from "./format.js";
import { bind, step } from "./keys.js";
import { line } from "./line.js";
import { lineTokens } from "./tokens.js";

export async function show(main) {
  const search = new URLSearchParams(location.search);
  const path = search.get("path");
  if (path) await showLines(main, path, Math.max(Number(search.get("line")) || 1, 1));
  else await showBuilds(main);
}

async function showBuilds(main) {
  const builds = await get("builds");
  const none = el("p", {}, "No build has been written: run 'rolloutops build'.");
  put(main, el("h1", {}, "Builds"), builds.length ? builds.map(build) : none);
  bind("j", "next file", () => step(main.querySelectorAll("tbody a"), 1));
  bind("k", "previous file", () => step(main.querySelectorAll("tbody a"), -1));
}

function build(one) {
  const columns = [
    ["File", (file) => el("a", { href: href("/builds", new URLSearchParams({ path: file.path })) }, file.path.split("/").at(-1))],
    ["Split", (file) => file.split],
    ["Lines", (file) => number(file.rows), true],
    ["Bytes", (file) => number(file.bytes), true],
  ];
  const steps = one.steps.map((each) => `${each.step} (${each.use}) kept ${number(each.kept)} of ${number(each.rows_in)}`);
  return el(
    "section",
    { "aria-label": one.step },
    el("h2", {}, `${one.step} `, el("span", { class: "quiet" }, one.use)),
    el("p", { class: "quiet" }, `${one.folder}, built ${when(one.built_at)}${steps.length ? `, after ${steps.join("; ")}` : ""}`),
    facts(`Files of ${one.step}`, columns, one.files),
  );
}

async function showLines(main, path, first) {
  const found = await get("lines", new URLSearchParams({ path, line: first }));
  document.title = `${path.split("/").at(-1)} · rolloutops`;
  const at = (number_) => href("/builds", new URLSearchParams({ path, line: number_ }));
  const size = 10;
  const before = first > 1 ? Math.max(first - size, 1) : null;
  const after = first + size <= found.rows ? first + size : null;
  const go = (number_) => number_ && (location.href = at(number_));
  const ways = el(
    "nav",
    { class: "ways", "aria-label": "Lines" },
    before ? el("a", { class: "way", href: at(before) }, "‹ Previous lines") : null,
    after ? el("a", { class: "way", href: at(after) }, "Next lines ›") : null,
    el("span", { class: "quiet" }, `${count(found.rows, "line")} of ${found.split}`),
    el("a", { class: "way", href: "/builds" }, "All builds"),
  );
  put(main, el("h1", {}, "Lines of ", el("span", { class: "name" }, path)), ways, found.lines.map((one) => line(one, madeOf(one), lineTokens(path, one.line))));
  bind("j", "next line", () => step(main.querySelectorAll("article"), 1));
  bind("k", "previous line", () => step(main.querySelectorAll("article"), -1));
  bind("t", "the line as tokens", () => unfold((document.activeElement.closest("article") ?? main.querySelector("article"))?.querySelector(".mask")));
  bind("]", "next lines", () => go(after));
  bind("[", "previous lines", () => go(before));
  bind("Escape", "to the builds", () => (location.href = "/builds"));
}

function unfold(details) {
  if (details) details.open = !details.open;
}

function madeOf(one) {
  const links = one.rollouts.map((row) =>
    el("li", {}, `${row.role}: `, el("a", { href: rolloutHref(row) }, `repeat ${row.rollout_index} of ${row.policy} on ${row.task_id}`), `, reward ${number(row.reward)}`),
  );
  return links.length ? el("ul", { class: "origins" }, links) : null;
}
