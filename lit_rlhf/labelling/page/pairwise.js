// Two responses: one key or one click says which is better, and by how much.

import { button, element } from "./dom.js";

const CHOICES = [
  { key: "1", label: "A better", verdict: { ranking: [[0], [1]], strength: "better" } },
  { key: "2", label: "A slightly", verdict: { ranking: [[0], [1]], strength: "slightly" } },
  { key: "3", label: "Tie", verdict: { ranking: [[0, 1]] } },
  { key: "4", label: "B slightly", verdict: { ranking: [[1], [0]], strength: "slightly" } },
  { key: "5", label: "B better", verdict: { ranking: [[1], [0]], strength: "better" } },
  { key: "0", label: "Both bad", verdict: { ranking: [[0, 1]], both_bad: true } },
];

/** What every mode gives: nodes of the bar, bindings of keys, and what to keep of an unfinished judgement. */
export function pairwise(task, { submit }) {
  const buttons = CHOICES.map(({ key, label, verdict }) =>
    button(label, key, () => submit(verdict), {
      class: "choice",
      "aria-pressed": task.verdict && String(isSame(verdict, task.verdict)),
    }),
  );
  return {
    bar: [element("div", { class: "choices", role: "group", "aria-label": "Which response is better?" }, buttons)],
    keys: CHOICES.map(({ key, label, verdict }) => ({ key, label, run: () => submit(verdict) })),
    draft: () => null,
  };
}

function isSame(one, other) {
  const said = ({ ranking, strength, both_bad }) => JSON.stringify([ranking, strength ?? null, both_bad ?? false]);
  return said(one) === said(other);
}
