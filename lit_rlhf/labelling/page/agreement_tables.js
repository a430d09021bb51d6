// The tables of the agreement page.

import { element } from "./dom.js";
import { head, measureCell } from "./intervals.js";
import { count } from "./words.js";

/** A table that scrolls by itself where it does not fit, also by keyboard. */
export function wide(label, table) {
  return table && element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label }, table);
}

export function meanRanks({ responses, judgements, by_position }) {
  const caption = `Mean rank by the position shown, of ${responses} responses (${count(judgements, "ranking")})`;
  return wide(
    caption,
    element(
      "table",
      {},
      element("caption", {}, caption),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          by_position.map((_, i) => head(`Shown as ${i + 1}`, "number")),
        ),
      ),
      element(
        "tbody",
        {},
        element(
          "tr",
          {},
          by_position.map((rank) => element("td", { class: "number" }, rank.toFixed(2))),
        ),
      ),
    ),
  );
}

export function confusion({ answers, counts }) {
  const most = Math.max(1, ...counts.flat());
  const caption = "Two judgements of the same item: what the one says, and what the other says";
  return wide(
    caption,
    element(
      "table",
      { class: "confusion" },
      element("caption", {}, caption, element("span", { class: "soft" }, " Each two are counted in both orders.")),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("td", {}),
          answers.map((answer) => head(answer, "number")),
        ),
      ),
      element(
        "tbody",
        {},
        counts.map((row, i) =>
          element(
            "tr",
            {},
            element("th", { scope: "row" }, answers[i]),
            row.map((number, j) => {
              const cell = element("td", { class: i === j ? "number same" : "number" }, String(number));
              cell.style.setProperty("--share", `${Math.round((40 * number) / most)}%`);
              return cell;
            }),
          ),
        ),
      ),
    ),
  );
}

/** Columns of all measures that any row has, in their first order. */
function columnsOf(rows) {
  return [...new Map(rows.flatMap(({ measures }) => measures).map(({ name, label }) => [name, label]))];
}

function measureCells(columns, { measures }) {
  return columns.map(([name]) => measureCell(measures.find((measure) => measure.name === name)));
}

export function pairs({ between, between_left_out }) {
  if (!between.length) return null;
  const columns = columnsOf(between);
  return [
    wide(
      "Two by two",
      element(
        "table",
        {},
        element("caption", {}, "Two by two"),
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            head("Annotators"),
            head("Items", "number"),
            columns.map(([, label]) => head(label, "number")),
          ),
        ),
        element(
          "tbody",
          {},
          between.map((row) =>
            element(
              "tr",
              {},
              element("th", { scope: "row" }, row.annotators.join(" and ")),
              element("td", { class: "number" }, String(row.items)),
              measureCells(columns, row),
            ),
          ),
        ),
      ),
    ),
    between_left_out > 0 &&
      element("p", { class: "soft" }, `${count(between_left_out, "more pair")} with fewer items in common.`),
  ];
}

export function annotators({ by_annotator }) {
  if (!by_annotator.length) return null;
  const columns = columnsOf(by_annotator);
  const heads = ["Judged", "Skipped", "Flagged", "Seconds"].map((label) => head(label, "number"));
  return wide(
    "Annotators",
    element(
      "table",
      { class: "annotators" },
      element("caption", {}, "Annotators"),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          head("Annotator"),
          heads,
          columns.map(([, label]) => head(label, "number")),
        ),
      ),
      element(
        "tbody",
        {},
        by_annotator.map((row) =>
          element(
            "tr",
            {},
            element(
              "th",
              { scope: "row" },
              row.annotator,
              row.machine && element("span", { class: "soft interval" }, row.machine),
            ),
            [row.judgements, row.skips, row.flags].map((number) => element("td", { class: "number" }, String(number))),
            element(
              "td",
              { class: "number" },
              row.seconds ? row.seconds.median.toFixed(0) : "–",
              row.seconds &&
                element(
                  "span",
                  { class: "soft interval" },
                  `${row.seconds.lower.toFixed(0)} – ${row.seconds.upper.toFixed(0)}`,
                ),
            ),
            measureCells(columns, row),
          ),
        ),
      ),
    ),
  );
}
