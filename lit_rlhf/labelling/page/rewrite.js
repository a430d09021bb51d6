// A correction of a response: it becomes a demonstration.

import { button, element } from "./dom.js";
import { differences } from "./diff.js";
import { letter } from "./words.js";

/** See `pairwise` for what it gives; `below` stands under the responses. */
export function rewrite(task, { cards, draft, submit, changed, select, complain, confirmed }) {
  const start = [draft, task.verdict].find((said) => said?.rewrite !== undefined);
  let of = start?.rewrite_of ?? 0;
  let original = null; // the whole response that she starts from, as the text field spells it; null until it is read
  let turn = 0;
  const area = element("textarea", { id: "rewrite", rows: 6, dir: "auto", spellcheck: "true" });
  area.value = start?.rewrite ?? "";
  const changes = element("div", {
    class: "text changes",
    dir: "auto",
    "aria-label": "What you changed",
    role: "group",
  });
  const heading = element("label", { for: "rewrite", class: "heading" });

  const isUntouched = () => area.value === original;

  /**
   * Puts a response into the field, or `written` over it. One that was cut is read whole first: her version takes the
   * place of the whole response, so nothing may be missing from it unseen.
   */
  async function begin(position, written = null) {
    const mine = ++turn;
    const fill = (text) => {
      of = position;
      area.value = text;
      original = area.value;
      area.value = written ?? text;
      area.disabled = false;
      draw();
    };
    if (!cards[position].isCut) return fill(cards[position].text());
    area.disabled = true;
    complain(`All of ${letter(position)} is read first …`);
    try {
      const text = await cards[position].whole();
      if (mine === turn) fill(text);
    } catch (problem) {
      area.disabled = original === null;
      complain(`${problem.message} Without all of ${letter(position)} it cannot be rewritten.`);
    }
  }

  async function from(position) {
    const asked = `Start again from ${letter(position)}? What you wrote is replaced.`;
    if (original !== null && !isUntouched() && !window.confirm(asked)) return;
    select(position);
    await begin(position);
    if (of === position) changed();
    area.focus();
  }

  function draw() {
    heading.textContent = `Your version, from ${letter(of)}`;
    const pieces = original === null || isUntouched() ? null : differences(original, area.value);
    changes.hidden = pieces === null;
    if (pieces) changes.replaceChildren(...together(pieces));
  }

  function finish() {
    if (original === null) return complain(`All of ${letter(of)} has to be read first.`);
    if (!area.value.trim()) return complain("Your version is empty. Skip the item where there is nothing to say.");
    if (isUntouched() && !confirmed("You changed nothing. Once more, if the response is right as it is.")) return;
    submit({ rewrite: area.value, rewrite_of: of });
  }

  let later;
  area.addEventListener("input", () => {
    changed();
    clearTimeout(later);
    later = setTimeout(draw, 200);
  });
  const starts = task.responses.map((_, position) =>
    button(`Start from ${letter(position)}`, null, () => from(position), { class: "quiet" }),
  );
  begin(of, start?.rewrite);
  const typed = () => (original === null ? start : isUntouched() ? null : { rewrite: area.value, rewrite_of: of });
  return {
    below: element(
      "section",
      { class: "rewriting", "aria-label": "Rewrite" },
      element("header", {}, heading, cards.length > 1 && starts),
      area,
      changes,
    ),
    bar: [
      element("div", { class: "choices" }, button("Submit your version", "Ctrl ⏎", finish, { class: "choice main" })),
    ],
    keys: [
      { key: "Control+Enter", label: "submit your version", run: finish, whileTyping: true },
      { key: "e", label: "write", run: () => area.focus() },
      {
        key: "Escape",
        label: "leave the text, so that keys work again",
        run: () => area.blur(),
        whileTyping: true,
        where: (target) => target === area,
      },
    ],
    draft: () => typed() ?? null,
    selectionChanged: draw,
  };
}

/** Both texts in one: what was taken out, and what came in its place. */
function together(merged) {
  const tags = { first: "del", second: "ins", both: "span" };
  return merged.map(({ text, of }) => element(tags[of], {}, text));
}
