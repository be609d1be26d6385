// A plot of bars over time.

import { el, svg } from "./dom.js";

const WIDE = 300;
const HIGH = 60;

/** Draw values as bars, with the sentence that says what they show. */
export function bars(values, sentence) {
  const most = Math.max(...values, 1);
  const step = WIDE / values.length;
  const rects = values.map((value, at) => {
    const tall = value ? Math.max((value / most) * (HIGH - 2), 1) : 0;
    return svg("rect", { class: "bar", x: at * step + 0.5, width: step - 1, y: HIGH - tall, height: tall });
  });
  return el("figure", {}, svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": sentence }, rects), el("figcaption", {}, sentence));
}
