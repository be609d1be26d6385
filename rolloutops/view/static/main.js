// Begins a page: the bar above it, its keys, and the module of its name.

import { get } from "./api.js";
import { add, el, put } from "./dom.js";
import { listen } from "./keys.js";
import { live } from "./live.js";

const LINKS = [
  ["/", "rollouts", "Rollouts"],
  ["/compare", "compare", "Compare"],
  ["/failures", "failures", "Failures"],
  ["/run", "run", "Runs"],
  ["/builds", "builds", "Builds"],
];

const page = document.body.dataset.page;
const main = document.getElementById("main");

function bar(moment) {
  const lines = ["/builds?" + new URLSearchParams({ path: moment.place }), "builds", "Lines"];
  const links = (moment.file ? [...LINKS.slice(0, -2), lines] : LINKS).map(([path, name, label]) =>
    el("a", { href: path, "aria-current": name === page ? "page" : null }, label),
  );
  add(
    document.getElementById("top"),
    el("a", { class: "brand", href: "/" }, "rolloutops"),
    el("nav", { "aria-label": "Pages" }, links),
    el("span", { id: "workspace", class: "quiet" }, moment.place),
    el("span", { class: "quiet hint" }, el("kbd", {}, "?"), " keys"),
  );
}

/** Show what went wrong in place of the page. */
function fail(error) {
  console.warn(error);
  put(main, el("h1", {}, "This page cannot be shown"), el("p", { class: "error", role: "alert" }, error.message));
  document.body.dataset.ready = "failed";
}

async function begin() {
  listen();
  const [module, moment] = await Promise.all([import(`./${page}.js`), get("moment")]);
  bar(moment);
  live(moment);
  await module.show(main, moment);
  document.body.dataset.ready = Math.round(performance.now());
}

begin().catch(fail);
