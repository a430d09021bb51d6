// How far annotators agree: what `/api/agreement` says, as tables that can be read, compared and printed.

import { Unreachable, get } from "./api.js";
import { annotators, confusion, meanRanks, pairs, wide } from "./agreement_tables.js";
import { announce, button, element } from "./dom.js";
import { measureTable } from "./intervals.js";
import { openShell } from "./shell.js";
import { count } from "./words.js";

const COUNTING_SECONDS = 300;
const TITLES = { pairwise: "Pairwise comparisons", ranking: "Rankings", rating: "Ratings", rewrite: "Rewrites" };

const shell = await openShell("agreement");

/** Much is counted for minutes, so it is waited for long, and asked for again by hand alone. */
async function load() {
  const words = "Counting … this takes a while where much is judged, and keeps nobody from judging.";
  show(state("Agreement", words));
  announce(words);
  try {
    show(page(await get("/api/agreement", COUNTING_SECONDS)));
  } catch (problem) {
    if (!(problem instanceof Unreachable)) return shell.lost(problem);
    show(state("Agreement", problem.message, button("Ask again", null, load)));
  }
}

function show(node) {
  shell.place.replaceChildren(node);
  shell.place.querySelector("h1").focus();
}

function state(title, words, ...more) {
  return element("div", { class: "state" }, element("h1", { tabindex: -1 }, title), element("p", {}, words), more);
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
    mode.judgements_of_programs && `${count(mode.judgements_of_programs, "more judgement")} by programs`,
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
