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

/** Asks for a text; `reasons` are taken with one key or click, with `done(text)` either way. */
function ask({ title, hint, label, reasons, value, required, accept, done }) {
  const area = element("textarea", { id: "note", rows: 3, maxlength: 4000, required, dir: "auto" });
  area.value = value;
  const form = element(
    "form",
    { method: "dialog" },
    element("label", { for: "note", class: "heading" }, label),
    area,
    element("div", { class: "row" }, element("button", { class: "choice main" }, accept)),
  );
  const finish = (text) => {
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
  if (reasons.length) list.querySelector("button").focus();
  else area.focus();
}

export function askSkip(done) {
  const hint = "The item is put aside with your reason, and nothing is said of the responses.";
  ask({
    title: "Skip this item",
    hint,
    label: "Another reason",
    reasons: SKIPS,
    value: "",
    required: true,
    accept: "Skip",
    done,
  });
}

export function askFlag(value, done) {
  const hint = "A flag goes along with your judgement, for those who look after the items. An empty one takes it away.";
  ask({ title: "Flag this item", hint, label: "What is wrong", reasons: FLAGS, value, accept: "Keep the flag", done });
}

export function askComment(value, done) {
  ask({
    title: "Comment",
    label: "Goes along with your judgement",
    reasons: [],
    value,
    accept: "Keep the comment",
    done,
  });
}
