// Tells a page that the workspace has changed while it is looked at.

import { get } from "./api.js";

const PAUSE = 2000;
let current = null;

/** The moment that the server shows now. */
export function moment() {
  return current;
}

/** Look for new rollouts as long as the page is seen, and send `moment` when there are some. */
export function live(first) {
  current = first;
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const now = await get("moment");
      if (now.number === current.number) return;
      current = now;
      document.dispatchEvent(new CustomEvent("moment", { detail: now }));
    } catch {
      // The server has stopped, or starts again: the next request of the person's says so.
    }
  }, PAUSE);
}
