// One task on the page: prompt, responses, the mode's controls, and the way to a judgement.

import { newSubmission } from "./api.js";
import { startClock } from "./clock.js";
import { differences, marksOf } from "./diff.js";
import { guard } from "./drafts.js";
import { announce, button, element } from "./dom.js";
import { bind } from "./keys.js";
import { askComment, askFlag, askSkip } from "./notes.js";
import { pairwise } from "./pairwise.js";
import { ranking } from "./ranking.js";
import { rating } from "./rating.js";
import { rewrite } from "./rewrite.js";
import { TOO_LONG_FOR_MARKDOWN, promptBlock, responseCard } from "./texts.js";
import { verdictInWords } from "./words.js";

const MODES = { pairwise, ranking, rating, rewrite };
const QUESTIONS = {
  pairwise: "Which response is better?",
  ranking: "Put the responses in order, the best first.",
  rating: "How good is each response?",
  rewrite: "Write the response that should have been given.",
};
/** A key that bounces, or is hit twice, must not judge the item that has just appeared. */
const BOUNCE_MILLISECONDS = 250;
/** Kept while the page lives: how she likes to read. */
const view = { markdown: false, different: false, unfolded: false };
/** Of these two ways only one at a time. */
const OTHER = { markdown: "different", different: "markdown" };

/**
 * Shows a task in `place`.
 *
 * @param hooks `deliver(judgement)`: sends it, resolves when it is acknowledged; `undo()`; `drafts`; `highest` rating;
 *   `notice`: a sentence above the item; `last`: what was said of the one before; `kept`: the same, where it is news;
 *   `offers`: [{ label, run }] beside the notice.
 * @returns a function that takes the item off the page.
 */
export function showItem(place, task, hooks) {
  const draft = hooks.drafts.read(task.number);
  const notes = { comment: draft?.comment ?? task.comment ?? "", flag: draft?.flag ?? task.flag ?? "" };
  let reason = draft?.reason ?? ""; // to skip, typed and not given
  const clock = startClock(draft?.seconds);
  const shownAt = performance.now();
  let selected = 0;
  let confirming = null;
  let finished = false;

  const message = element("p", { class: "message-line", role: "status" });
  const complain = (sentence) => (message.textContent = sentence);
  const prompt = promptBlock(task, complain);
  const cards = task.responses.map((_, position) => responseCard(task, position, complain));

  const keep = () => {
    if (!finished) hooks.drafts.write(task.number, { ...mode.draft(), ...notes, reason, seconds: clock.seconds() });
  };
  const changed = () => {
    confirming = null;
    complain("");
    keep();
  };
  /** True the second time that the same is asked. */
  const confirmed = (sentence) => {
    if (confirming === sentence) return true;
    complain((confirming = sentence));
    return false;
  };
  const select = (position, { show } = {}) => {
    selected = position;
    cards.forEach((card, other) => card.node.classList.toggle("selected", selectable && other === position));
    if (show) cards[position].node.scrollIntoView({ block: "nearest" });
    mode.selectionChanged?.();
    if (view.different) render();
  };

  async function submit(verdict) {
    if (finished || performance.now() - shownAt < BOUNCE_MILLISECONDS) return;
    finished = true;
    free();
    place.toggleAttribute("inert", true);
    const judgement = { task: task.number, submission: newSubmission(), replaces: task.judgement, verdict, ...notes };
    if (await hooks.deliver({ ...judgement, seconds: clock.seconds() }, task, complain)) return;
    finished = false;
    free = bind(keys);
    place.toggleAttribute("inert", false);
  }

  const tools = {
    cards,
    draft,
    submit,
    changed,
    confirmed,
    complain,
    select,
    selected: () => selected,
    highest: hooks.highest,
  };
  const mode = MODES[task.mode](task, tools);
  const selectable = mode.selectionChanged !== undefined && cards.length > 1;

  function render() {
    const isShort = prompt.render(view);
    const marks = view.different && cards.length > 1 ? differenceMarks() : [];
    const asAsked = cards.map((card, position) => card.render(view, marks[position]));
    if (view.markdown && !(isShort && asAsked.every(Boolean))) complain(TOO_LONG_FOR_MARKDOWN);
  }

  /** Of two, each against the other; of more, the others against the selected one. */
  function differenceMarks() {
    const against = cards.length === 2 ? 0 : selected;
    const marks = cards.map(() => null);
    cards.forEach((card, position) => {
      if (position === against) return;
      const merged = differences(cards[against].text(), card.text());
      if (merged === null) return complain("These texts are too long for marks of what differs.");
      marks[position] = marksOf(merged, "second");
      if (cards.length === 2) marks[against] = marksOf(merged, "first");
    });
    return marks;
  }

  /** Enter submits: it must not press once more what was clicked last. By keys the focus stays where it is. */
  function giveEnterBack(event) {
    const pressed = event.target.closest("button");
    if (event.detail === 0 || !pressed || pressed.matches(".choice, .grip")) return;
    (pressed.closest("li")?.querySelector(".grip") ?? title).focus({ preventScroll: true });
  }

  const toggles = element("div", { class: "toggles", role: "group", "aria-label": "How the texts are shown" });
  const controls = {};
  const toggle = (name, label, key) => {
    const flip = () => {
      view[name] = !view[name];
      // marks of what differs are those of the text as it is
      if (view[name] && name in OTHER) view[OTHER[name]] = false;
      for (const [each, control] of Object.entries(controls)) control.setAttribute("aria-pressed", String(view[each]));
      complain("");
      if (name === "unfolded") [prompt, ...cards].forEach((text) => text.unfold(view.unfolded));
      else render();
    };
    controls[name] = button(label, key, flip, { class: "quiet", "aria-pressed": String(view[name]) });
    toggles.append(controls[name]);
    return { key, label: label.toLowerCase(), run: flip };
  };
  const viewKeys = [toggle("markdown", "Markdown", "m")];
  if (cards.length > 1) viewKeys.push(toggle("different", "Differences", "d"));
  viewKeys.push(toggle("unfolded", "Show all", "x"));

  const pills = element("div", { class: "pills" });
  const drawNotes = () => {
    const pill = (name, text, open) =>
      text &&
      element("button", { type: "button", class: "pill", onclick: open }, `${name}: `, element("bdi", {}, text));
    pills.replaceChildren(...[pill("Flag", notes.flag, flag), pill("Comment", notes.comment, comment)].filter(Boolean));
  };
  const note = (name) => (text) => {
    notes[name] = text;
    drawNotes();
    changed();
  };
  const flag = () => askFlag(notes.flag, note("flag"));
  const comment = () => askComment(notes.comment, note("comment"));
  const putAside = (text) => {
    reason = text;
    keep();
  };
  const skip = () => askSkip(reason, (text) => submit({ skip: text }), putAside);
  const aside = [
    { key: "s", name: "Skip", label: "skip, with a reason", run: skip },
    { key: "f", name: "Flag", label: "flag the item", run: flag },
    { key: "c", name: "Comment", label: "comment", run: comment },
    { key: "u", name: "Undo", label: "take your last judgement back", run: hooks.undo },
  ];

  const title = element("h1", { tabindex: -1 }, QUESTIONS[task.mode]);
  const last = hooks.last && element("p", { class: "last soft" }, `The one before: ${hooks.last}`);
  const earlier = task.verdict && `You said: ${verdictInWords(task.verdict, task.mode)}.`;
  const notices = [task.practice && "Practice: you are told afterwards whether it was right.", hooks.notice, earlier];
  const shown = notices.filter(Boolean).join(" ");
  place.replaceChildren(
    element(
      "div",
      { class: `item ${task.mode}`, "data-count": cards.length, "data-task": task.number },
      element("header", { class: "item-head" }, title, last, toggles),
      shown &&
        element(
          "p",
          { class: "notice" },
          shown,
          (hooks.offers ?? []).map(({ label, run }) => button(label, null, run)),
        ),
      prompt.node,
      element(
        "div",
        { class: "work" },
        element(
          "div",
          { class: "responses" },
          cards.map((card) => card.node),
        ),
        mode.aside ?? null,
      ),
      mode.below ?? null,
      element(
        "div",
        { class: "bar", role: "region", "aria-label": "Your judgement" },
        message,
        pills,
        mode.bar,
        element(
          "div",
          { class: "side" },
          aside.map(({ name, key, run }) => button(name, key, run, { class: "quiet" })),
        ),
      ),
    ),
  );
  cards.forEach((card, position) => card.node.addEventListener("click", () => select(position)));
  [prompt, ...cards].forEach((text) => text.unfold(view.unfolded));
  drawNotes();
  render();
  select(0);
  const keys = [...mode.keys, ...viewKeys, ...aside];
  let free = bind(keys);
  place.addEventListener("click", giveEnterBack, { capture: true });
  window.addEventListener("pagehide", keep);
  const hasWritten = () => notes.comment !== (task.comment ?? "") || Boolean(task.mode === "rewrite" && mode.draft());
  const unguard = guard(() => !finished && hasWritten());
  window.scrollTo(0, 0);
  title.focus({ preventScroll: true });
  announce([hooks.kept && `Kept: ${hooks.kept} Next:`, QUESTIONS[task.mode], shown].filter(Boolean).join(" "));

  return () => {
    keep();
    free();
    clock.stop();
    unguard();
    place.removeEventListener("click", giveEnterBack, { capture: true });
    window.removeEventListener("pagehide", keep);
  };
}
