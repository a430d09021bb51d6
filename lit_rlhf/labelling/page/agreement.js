// How far annotators agree: what `/api/agreement` says, as tables that can be read, compared and printed.

import { get } from "./api.js";
import { button, element } from "./dom.js";
import { head, measureCell, measureTable } from "./intervals.js";
import { openShell } from "./shell.js";
import { count } from "./words.js";

const TITLES = { pairwise: "Pairwise comparisons", ranking: "Rankings", rating: "Ratings", rewrite: "Rewrites" };

const shell = await openShell("agreement");

async function load() {
  const told = await shell.reach(() => get("/api/agreement")).catch(shell.lost);
  shell.place.replaceChildren(page(told));
  shell.place.querySelector("h1").focus();
}

function page(told) {
  const people = `${count(told.judgements, "judgement")} of ${count(told.items, "item")} by ${count(told.annotators, "annotator")}`;
  return element(
    "div",
    { class: "agreement" },
    element(
      "header",
      { class: "item-head" },
      element("h1", { tabindex: -1 }, "Agreement"),
      element(
        "div",
        { class: "toggles" },
        button("Print", null, () => window.print(), { class: "quiet" }),
        button("Ask again", null, load, { class: "quiet" }),
      ),
    ),
    element("p", {}, `${people}.`, machines(told.machines)),
    told.modes.length === 0 &&
      element("p", { class: "soft" }, "There is nothing to compare before two annotators have judged the same items."),
    told.modes.map(modeSection),
    remarks(told),
  );
}

function machines(named) {
  const names = Object.entries(named).map(([name, kind]) => `${name} (${kind})`);
  return names.length
    ? ` Programs among them: ${names.join(", ")}; the numbers are people's, and programs are held against them.`
    : "";
}

function modeSection(mode) {
  const facts = [
    count(mode.judgements, "judgement"),
    count(mode.items, "item"),
    `${mode.several} of them judged by several`,
    mode.judgements_of_programs && `${mode.judgements_of_programs} more judgements by programs`,
    mode.skips && `${mode.skips} skipped`,
    mode.both_bad && `${mode.both_bad} times none acceptable`,
    mode.seconds && `${secondsInWords(mode.seconds)} a judgement`,
  ];
  const whose = mode.whose === "people" ? "" : " Only programs have judged here.";
  return element(
    "section",
    { "aria-label": TITLES[mode.mode] },
    element("h2", {}, TITLES[mode.mode]),
    element("p", { class: "facts" }, `${facts.filter(Boolean).join(" · ")}.${whose}`),
    mode.notes.map((note) => element("p", { class: "soft" }, note)),
    wide("Between annotators", measureTable("Between annotators", mode.agreement)),
    wide("What else decides", measureTable("What else decides", mode.bias)),
    wide(
      "Against the known answer and against oneself",
      measureTable("Against the known answer, and against oneself", mode.checks),
    ),
    mode.mean_ranks.map(meanRanks),
    mode.confusion && confusion(mode.confusion),
    pairs(mode),
    annotators(mode),
  );
}

function secondsInWords({ lower, median, upper }) {
  return `${median.toFixed(0)} s (half of them ${lower.toFixed(0)} to ${upper.toFixed(0)} s)`;
}

/** A table that scrolls by itself where it does not fit, also by keyboard. */
function wide(label, table) {
  return table && element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label }, table);
}

function meanRanks({ responses, judgements, by_position }) {
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

function confusion({ answers, counts }) {
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

function pairs({ between, between_left_out }) {
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

function annotators({ by_annotator }) {
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

function remarks({ skips, skips_left_out, flags, flags_left_out }) {
  const more = (left) => left > 0 && element("p", { class: "soft" }, `And ${left} more.`);
  return [
    skips.length > 0 &&
      element(
        "section",
        { "aria-label": "Skipped" },
        element("h2", {}, "Skipped"),
        element(
          "ul",
          {},
          skips.map(({ reason, count: times }) => element("li", {}, element("bdi", {}, reason), ` – ${times}`)),
        ),
        more(skips_left_out),
      ),
    flags.length > 0 &&
      element(
        "section",
        { "aria-label": "Flagged items" },
        element("h2", {}, "Flagged items"),
        element(
          "ul",
          {},
          flags.map(({ item, annotator, text }) =>
            element("li", {}, `Item ${item}, `, element("bdi", {}, annotator), ": ", element("bdi", {}, text)),
          ),
        ),
        more(flags_left_out),
      ),
  ];
}

load();
