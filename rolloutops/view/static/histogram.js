// The histogram of rewards: a range is picked by dragging over the bars, or written into two fields.

import { el, svg } from "./dom.js";
import { number } from "./format.js";

const WIDE = 240;
const HIGH = 72;

/** Make the histogram. bars: `{low, high, rollouts}`. go: called with `low` and `high`. */
export function histogram(bars, params, go) {
  if (!bars.length) return null;
  const most = Math.max(...bars.map((bar) => bar.rollouts));
  const step = WIDE / bars.length;
  const low = params.get("low");
  const high = params.get("high");
  const inside = (bar) => (low === null || bar.high >= Number(low)) && (high === null || bar.low <= Number(high));
  const rects = bars.map((bar, at) => {
    const tall = bar.rollouts ? Math.max((bar.rollouts / most) * (HIGH - 4), 1) : 0;
    const place = { x: at * step + 1, y: HIGH - tall, width: Math.max(step - 2, 1), height: tall };
    return svg("rect", { ...place, class: inside(bar) ? "bar" : "bar out" }, svg("title", {}, about(bar)));
  });
  const brush = svg("rect", { class: "brush", y: 0, height: HIGH, width: 0, x: 0 });
  const ends = `rewards from ${number(bars[0].low)} to ${number(bars.at(-1).high)}`;
  const plot = svg(
    "svg",
    { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `Histogram of ${ends}, ${number(most)} in the highest bar` },
    rects,
    brush,
  );
  drag(plot, brush, bars, go);
  const axis = el("div", { class: "axis quiet", "aria-hidden": "true" }, el("span", {}, number(bars[0].low)), el("span", {}, number(bars.at(-1).high)));
  return [el("h2", {}, "Reward"), plot, axis, fields(low, high, go)];
}

function about(bar) {
  const range = bar.low === bar.high ? number(bar.low) : `${number(bar.low)} to ${number(bar.high)}`;
  return `${range}: ${number(bar.rollouts)}`;
}

/** Let a pointer pick bars. */
function drag(plot, brush, bars, go) {
  let from = null;
  const bar = (event) => {
    const box = plot.getBoundingClientRect();
    const at = Math.floor(((event.clientX - box.left) / box.width) * bars.length);
    return Math.min(Math.max(at, 0), bars.length - 1);
  };
  const show = (to) => {
    const [first, last] = [Math.min(from, to), Math.max(from, to)];
    brush.setAttribute("x", (first * WIDE) / bars.length);
    brush.setAttribute("width", ((last - first + 1) * WIDE) / bars.length);
    return [first, last];
  };
  plot.addEventListener("pointerdown", (event) => {
    from = bar(event);
    plot.setPointerCapture(event.pointerId);
    show(from);
  });
  plot.addEventListener("pointermove", (event) => from !== null && show(bar(event)));
  plot.addEventListener("pointercancel", () => {
    from = null;
    brush.setAttribute("width", 0);
  });
  plot.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const [first, last] = show(bar(event));
    from = null;
    go({ low: bars[first].low, high: bars[last].high });
  });
}

function fields(low, high, go) {
  const field = (name, label, value) =>
    el("label", {}, label, el("input", { type: "number", step: "any", name, value: value ?? "" }));
  const form = el("form", { class: "range" }, field("low", "from ", low), field("high", "to ", high), el("button", {}, "Apply"));
  if (low !== null || high !== null) {
    form.append(el("button", { type: "button", onclick: () => go({ low: null, high: null }) }, "All"));
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go({ low: form.elements.low.value || null, high: form.elements.high.value || null });
  });
  return form;
}
