// The time that somebody works on an item: while the tab is visible, and at most a minute after her last sign of life.

const IDLE_MILLISECONDS = 60_000;
const SIGNS = ["pointermove", "pointerdown", "keydown", "wheel", "scroll", "touchmove", "input"];

/** Counts from now on, after `seconds` that were counted before a reload. */
export function startClock(seconds = 0) {
  let counted = 1000 * seconds;
  let last = document.hidden ? null : performance.now();
  const count = () => {
    const now = performance.now();
    if (last !== null) counted += Math.min(now - last, IDLE_MILLISECONDS);
    last = document.hidden ? null : now;
  };
  for (const sign of SIGNS) document.addEventListener(sign, count, { passive: true, capture: true });
  document.addEventListener("visibilitychange", count);
  return {
    seconds() {
      count();
      return Math.round(counted / 100) / 10;
    },
    stop() {
      for (const sign of SIGNS) document.removeEventListener(sign, count, { capture: true });
      document.removeEventListener("visibilitychange", count);
    },
  };
}
