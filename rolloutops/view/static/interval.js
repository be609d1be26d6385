// An interval as a bar beside zero.

import { svg } from "./dom.js";

const WIDE = 120;
const HIGH = 16;

/** Draw `low` to `high` around `difference`, on a scale from -1 to 1, or wider where they are. */
export function interval({ low, high, difference }) {
  if (low === null || high === null) return "";
  const most = Math.max(1, Math.abs(low), Math.abs(high));
  const at = (value) => WIDE / 2 + (value / most) * (WIDE / 2 - 3);
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDE} ${HIGH}`, width: WIDE, height: HIGH, "aria-hidden": "true", class: "interval" },
    svg("line", { class: "zero", x1: WIDE / 2, x2: WIDE / 2, y1: 0, y2: HIGH }),
    svg("line", { class: "range", x1: at(low), x2: at(high), y1: HIGH / 2, y2: HIGH / 2 }),
    svg("circle", { class: "point", cx: at(difference), cy: HIGH / 2, r: 3.5 }),
  );
}
