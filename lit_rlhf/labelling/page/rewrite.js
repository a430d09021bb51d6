// A correction of a response: it becomes a demonstration.

import { button, element } from "./dom.js";
import { differences } from "./diff.js";
import { letter } from "./words.js";

/** See `pairwise` for what it gives; `below` stands under the responses. */
export function rewrite(task, { cards, draft, submit, changed, select, complain, confirmed }) {
  const start = [draft, task.verdict].find((said) => said?.rewrite !== undefined);
  let of = start?.rewrite_of ?? 0;
  const area = element("textarea", { id: "rewrite", rows: 6, dir: "auto", spellcheck: "true" });
  area.value = start?.rewrite ?? cards[of].text();
  const changes = element("div", {
    class: "text changes",
    dir: "auto",
    "aria-label": "What you changed",
    role: "group",
  });
  const heading = element("label", { for: "rewrite", class: "heading" });

  const isUntouched = () => area.value === cards[of].text();

  async function from(position) {
    if (!isUntouched() && !window.confirm(`Start again from ${letter(position)}? What you wrote is replaced.`)) return;
    of = position;
    area.value = cards[of].text();
    select(of);
    changed();
    area.focus();
  }

  function draw() {
    heading.textContent = `Your version, from ${letter(of)}`;
    const pieces = isUntouched() ? null : differences(cards[of].text(), area.value);
    changes.hidden = pieces === null;
    if (pieces) changes.replaceChildren(...together(pieces));
  }

  function finish() {
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
    draft: () => (isUntouched() ? null : { rewrite: area.value, rewrite_of: of }),
    selectionChanged: draw,
  };
}

/** Both texts in one: what was taken out, and what came in its place. */
function together(merged) {
  const tags = { first: "del", second: "ins", both: "span" };
  return merged.map(({ text, of }) => element(tags[of], {}, text));
}
