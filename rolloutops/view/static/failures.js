// The page of failures, by kind, with examples.

import { rolloutHref } from "./address.js";
import { get } from "./api.js";
import { el, put } from "./dom.js";
import { facts } from "./facts.js";
import { number, when } from "./format.js";
import { bind, step } from "./keys.js";
import { visible } from "./text.js";

export async function show(main) {
  const body = el("div");
  put(main, el("h1", {}, "Failures"), body);
  const load = async () => put(body, tables(await get("failures")));
  bind("j", "next example", () => step(body.querySelectorAll("tbody a"), 1));
  bind("k", "previous example", () => step(body.querySelectorAll("tbody a"), -1));
  document.addEventListener("moment", load);
  await load();
}

function tables(found) {
  const attempts = [
    ["Error", (row) => row.error],
    ["Dataset", (row) => row.dataset],
    ["Policy", (row) => row.policy],
    ["Attempts", (row) => number(row.attempts), true],
    ["Succeeded later", (row) => number(row.healed), true],
    ["Last", (row) => when(row.last_at)],
    ["Examples", examples],
  ];
  const verdicts = [
    ["Error", (row) => row.error],
    ["Dataset", (row) => row.dataset],
    ["Policy", (row) => row.policy],
    ["Rollouts", (row) => number(row.rollouts), true],
    ["Examples", examples],
  ];
  return [
    found.attempts.length ? facts("Failed attempts", attempts, found.attempts) : el("p", {}, "No attempt failed."),
    found.verdicts.length ? facts("Rollouts that could not be verified", verdicts, found.verdicts) : null,
  ];
}

function examples(row) {
  const items = row.examples.map((one) =>
    el("li", {}, el("a", { href: rolloutHref({ ...one, dataset: row.dataset }) }, `${one.task_id}, repeat ${one.rollout_index}${one.attempt === null ? "" : `, attempt ${one.attempt}`}`), ": ", el("span", { class: "message", dir: "auto" }, visible(one.error_message ?? "–")), one.label ? [" ", el("span", { class: "tag" }, one.label)] : null),
  );
  return el("ul", { class: "examples" }, items);
}
