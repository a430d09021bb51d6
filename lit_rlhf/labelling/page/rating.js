// A rating for each response, from 1, the worst.

import { announce, button, element } from "./dom.js";
import { letter } from "./words.js";

/** See `pairwise` for what it gives. With one response its rating is the judgement: one key, one click. */
export function rating(task, { cards, draft, submit, changed, select, selected, complain, highest }) {
  const ratings = draft?.ratings ?? [...(task.verdict?.ratings ?? task.responses.map(() => null))];
  const alone = ratings.length === 1;
  const scales = cards.map((card, position) => {
    const steps = Array.from({ length: highest }, (_, i) =>
      button(String(i + 1), null, () => rate(position, i + 1), {
        class: "star",
        "aria-label": `${i + 1} of ${highest}`,
      }),
    );
    card.node.append(
      element(
        "div",
        { class: "scale", role: "group", "aria-label": `Rating of ${letter(position)}` },
        element("span", { class: "soft" }, "worst"),
        steps,
        element("span", { class: "soft" }, "best"),
      ),
    );
    return steps;
  });

  function draw() {
    scales.forEach((steps, position) =>
      steps.forEach((step, i) => step.setAttribute("aria-pressed", String(ratings[position] === i + 1))),
    );
    cards.forEach((card, position) =>
      card.badge(ratings[position] === null ? "" : `${ratings[position]} of ${highest}`),
    );
  }

  function rate(position, value) {
    ratings[position] = value;
    if (alone) return submit({ ratings });
    announce(`${letter(position)}: ${value} of ${highest}.`);
    changed();
    const next = ratings.findIndex((one) => one === null);
    select(next >= 0 ? next : position, { show: next >= 0 });
  }

  function finish() {
    const missing = ratings.flatMap((one, position) => (one === null ? [letter(position)] : []));
    if (missing.length) complain(`Not rated yet: ${missing.join(", ")}.`);
    else submit({ ratings });
  }

  const digits = Array.from({ length: highest }, (_, i) => String(i + 1));
  const step = (way) => select(Math.min(Math.max(selected() + way, 0), ratings.length - 1), { show: true });
  const several = [
    { key: "j", label: "select the next response", run: () => step(1), repeats: true },
    { key: "k", label: "select the one before", run: () => step(-1), repeats: true },
    { key: ["Enter", "Control+Enter"], label: "submit the ratings", run: finish },
  ];
  return {
    bar: [
      element(
        "div",
        { class: "choices" },
        element("span", { class: "soft hint" }, `Keys 1 to ${highest} rate ${alone ? "it" : "the selected response"}.`),
        alone ? null : button("Submit ratings", "⏎", finish, { class: "choice main" }),
      ),
    ],
    keys: [
      {
        key: digits,
        shown: ["1", "…", digits.at(-1)],
        label: "rate the selected response",
        run: (digit) => rate(selected(), Number(digit)),
      },
      ...(alone ? [] : several),
    ],
    draft: () => (ratings.some((one) => one !== null) ? { ratings } : null),
    selectionChanged: draw,
  };
}
