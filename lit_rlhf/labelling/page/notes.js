// Beside the verdict: a reason to skip, a flag on the item, a comment.

import { element, openDialog } from "./dom.js";

const SKIPS = [
  "I do not understand the prompt",
  "It needs knowledge that I do not have",
  "I cannot decide",
  "A text is broken or cut off",
  "I do not want to judge this",
];
const FLAGS = [
  "Private data",
  "Offensive or dangerous",
  "The prompt is broken",
  "The responses belong to another prompt",
];

/**
 * Asks for a text; `reasons` are taken with one key or click, with `done(text)` either way. Closed in another way,
 * `left(text)` has what was typed.
 */
function ask({ title, hint, label, reasons, value, required, accept, done, left }) {
  const area = element("textarea", { id: "note", rows: 3, maxlength: 4000, required, dir: "auto" });
  area.value = value;
  const form = element(
    "form",
    { method: "dialog" },
    element("label", { for: "note", class: "heading" }, label),
    area,
    element("div", { class: "row" }, element("button", { class: "choice main" }, accept, " ", element("kbd", { "aria-hidden": "true" }, "Ctrl ⏎"))),
  );
  let finished = false;
  const finish = (text) => {
    finished = true;
    dialog.close();
    dialog.remove(); // at once, lest keys still go into its text field
    done(text.trim());
  };
  const list = element(
    "div",
    { class: "reasons" },
    reasons.map((reason, i) =>
      element(
        "button",
        { type: "button", onclick: () => finish(reason) },
        element("kbd", {}, String(i + 1)),
        ` ${reason}`,
      ),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (required && !area.value.trim()) return area.focus();
    finish(area.value);
  });
  const dialog = openDialog(title, hint && element("p", { class: "soft" }, hint), list, form);
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault(); // the item must not take the same keys as its own
      form.requestSubmit();
    }
    if (event.target === area || event.ctrlKey || event.altKey || event.metaKey) return;
    const reason = reasons[Number(event.key) - 1];
    if (reason) {
      event.preventDefault();
      finish(reason);
    }
  });
  dialog.addEventListener("close", () => {
    if (!finished && area.value.trim() !== value.trim()) left(area.value.trim());
  });
  if (reasons.length && !value) list.querySelector("button").focus();
  else area.focus();
}

/** Nothing is skipped by closing the dialog: what was typed goes to `left`, to be there when it is opened again. */
export function askSkip(value, done, left) {
  const hint = "The item is put aside with your reason, and nothing is said of the responses.";
  ask({
    title: "Skip this item",
    hint,
    label: "Another reason",
    reasons: SKIPS,
    value,
    required: true,
    accept: "Skip",
    done,
    left,
  });
}

export function askFlag(value, done) {
  const hint = "A flag goes along with your judgement, for those who look after the items. An empty one takes it away.";
  const [label, accept] = ["What is wrong", "Keep the flag"];
  ask({ title: "Flag this item", hint, label, reasons: FLAGS, value, accept, done, left: done });
}

export function askComment(value, done) {
  ask({
    title: "Comment",
    label: "Goes along with your judgement",
    reasons: [],
    value,
    accept: "Keep the comment",
    done,
    left: done,
  });
}
