// Measures as table rows: the number, its 95 % interval, a small drawing of both, and what they stand on.

import { element } from "./dom.js";
import { count } from "./words.js";

const WIDTH = 220;
const HEIGHT = 18;
/** Where there would be no bias at all. */
const HALVES = new Set(["first_shown_wins", "longer_wins", "swap_same_position"]);

/** `44.2 %`, `0.23`, `+0.17`, by the measure's format. */
export function written(value, format) {
  if (value === null) return "–";
  if (format === "share") return `${(100 * value).toFixed(1)}\u00a0%`;
  return `${format === "points" && value > 0 ? "+" : ""}${value.toFixed(2)}`.replace("-", "−");
}

export function interval({ low, high, format }) {
  if (low === null || high === null) return "";
  return format === "share"
    ? `${(100 * low).toFixed(1)} – ${(100 * high).toFixed(1)}\u00a0%`
    : `${written(low, format)} to ${written(high, format)}`;
}

function shape(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

/** The value as a dot on a line from `least` to 1, its interval as a bar. */
function drawn({ name, value, low, high, format }, least) {
  const x = (at) => 5 + ((at - least) / (1 - least)) * (WIDTH - 10);
  const y = HEIGHT / 2;
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "interval-drawing", "aria-hidden": "true" });
  svg.append(shape("line", { class: "axis", x1: x(least), x2: x(1), y1: y, y2: y }));
  const reference = format === "coefficient" ? 0 : HALVES.has(name) ? 0.5 : null;
  if (reference !== null && reference >= least) {
    svg.append(shape("line", { class: "reference", x1: x(reference), x2: x(reference), y1: 2, y2: HEIGHT - 2 }));
  }
  if (low !== null && high !== null)
    svg.append(shape("line", { class: "span", x1: x(low), x2: x(high), y1: y, y2: y }));
  svg.append(shape("circle", { class: "dot", cx: x(value), cy: y, r: 4.5 }));
  return svg;
}

/** A table of measures, or nothing where there are none. */
export function measureTable(caption, measures) {
  if (!measures.length) return null;
  const lowest = Math.min(
    ...measures.filter(({ format }) => format === "coefficient").map(({ low, value }) => low ?? value ?? 0),
  );
  const least = lowest < 0 ? -1 : 0;
  return element(
    "table",
    { class: "measures" },
    element("caption", {}, caption),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        head("Measure"),
        head("Value", "number"),
        head("95 % interval", "number"),
        element(
          "th",
          { scope: "col", class: "drawing" },
          element("span", {}, String(least).replace("-", "−")),
          element("span", {}, "1"),
        ),
        head("On"),
      ),
    ),
    element(
      "tbody",
      {},
      measures.map((measure) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, measure.label),
          element("td", { class: "number value" }, written(measure.value, measure.format)),
          element("td", { class: "number" }, interval(measure)),
          element(
            "td",
            { class: "drawing" },
            measure.value === null
              ? element("span", { class: "soft" }, measure.why)
              : measure.format !== "points" && drawn(measure, least),
          ),
          element("td", { class: "soft" }, count(measure.count, measure.unit.replace(/s$/, ""))),
        ),
      ),
    ),
  );
}

export function head(label, kind = null) {
  return element("th", { scope: "col", class: kind }, label);
}

/** A cell with a measure's value and, under it, its interval. */
export function measureCell(measure) {
  if (!measure) return element("td", { class: "number soft" }, "–");
  const title = measure.why ?? `on ${count(measure.count, measure.unit.replace(/s$/, ""))}`;
  return element(
    "td",
    { class: "number", title },
    element("span", { class: "value" }, written(measure.value, measure.format)),
    element("span", { class: "soft interval" }, interval(measure)),
  );
}
