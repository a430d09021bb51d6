// Two to nine responses in an order with ties, by drag, by buttons or by keys.

import { announce, button, element } from "./dom.js";
import { orderOf } from "./order.js";
import { letter, orderInWords } from "./words.js";

/** See `pairwise` for what it gives; `aside` is the list of the order, which stands beside the responses. */
export function ranking(task, { cards, draft, submit, changed, select, selected, confirmed }) {
  const singles = task.responses.map((_, position) => [position]);
  const order = orderOf(draft?.ranking ?? task.verdict?.ranking ?? singles);
  let touched = Boolean(draft?.ranking ?? task.verdict?.ranking);
  const rows = task.responses.map((response, position) => row(response, position));
  const list = element("ol", { class: "order", "aria-label": "Your order, best first" });
  const summary = element("p", { class: "summary" });

  function row(response, position) {
    const name = letter(position);
    const move = (label, sign, run) =>
      element("button", { type: "button", class: "step", "aria-label": `${label} ${name}`, onclick: run }, sign);
    return element(
      "li",
      { "data-position": position },
      element(
        "button",
        { type: "button", class: "grip", onclick: () => select(position), title: "Drag, or Alt ↑ and Alt ↓" },
        element("span", { class: "place" }),
        element("strong", {}, name),
        element("span", { class: "snippet", dir: "auto" }, response.text.slice(0, 80)),
      ),
      move("Better place for", "↑", () => step(position, -1)),
      move("Worse place for", "↓", () => step(position, 1)),
      element(
        "button",
        {
          type: "button",
          class: "step tie",
          "aria-label": `Tie ${name} with the one above`,
          onclick: () => tie(position),
        },
        "=",
      ),
    );
  }

  function draw() {
    const focused = document.activeElement;
    list.replaceChildren(...order.flat().map((position) => rows[position]));
    if (list.contains(focused)) focused.focus({ preventScroll: true });
    rows.forEach((item, position) => {
      const label = `${order.isTied(position) ? "=" : ""}${order.place(position)}`;
      const above = order.isTiedWithAbove(position);
      item.querySelector(".place").textContent = label;
      item.classList.toggle("tied", above);
      item.classList.toggle("selected", position === selected());
      item.querySelector(".grip").setAttribute("aria-current", String(position === selected()));
      item.querySelector(".tie").setAttribute("aria-pressed", String(above));
      cards[position].badge(label);
    });
    summary.textContent = orderInWords(order.groups());
  }

  function moved(position) {
    touched = true;
    select(position);
    changed();
    announce(`${letter(position)} is on place ${order.place(position)}. ${spoken()}`);
  }

  const spoken = () =>
    `The order: ${order
      .groups()
      .map((group) => group.map(letter).join(" tied with "))
      .join(", then ")}.`;

  function step(position, way) {
    order.step(position, way);
    moved(position);
  }

  function tie(position) {
    if (order.tie(position)) moved(position);
    else announce(`${letter(position)} is the first: there is nothing above it.`);
  }

  /** Gives the selected one its place, and goes on to the next that has none. */
  function place(digit) {
    const position = selected();
    const number = Number(digit);
    if (number > task.responses.length) return;
    order.give(position, number);
    const next = task.responses.findIndex((_, other) => !order.isGiven(other));
    moved(position);
    if (next >= 0) select(next, { show: true });
  }

  function neighbour(way) {
    const flat = order.flat();
    const next = flat[flat.indexOf(selected()) + way];
    if (next === undefined) return;
    select(next, { show: true });
    if (list.contains(document.activeElement)) rows[next].querySelector(".grip").focus();
  }

  function finish() {
    if (!touched && !confirmed("This is the order in which they were shown. Once more, if it is yours.")) return;
    submit({ ranking: order.groups().map((group) => group.sort((a, b) => a - b)) });
  }

  const allBad = () => submit({ ranking: [task.responses.map((_, position) => position)], both_bad: true });
  const inList = (target) => list.contains(target);
  const digits = task.responses.map((_, position) => String(position + 1));
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  window.Sortable.create(list, {
    forceFallback: true, // the browser's own drag cannot be styled, and does not work by touch
    fallbackTolerance: 4,
    handle: ".grip",
    delay: 180, // of a finger, so that a swipe scrolls
    delayOnTouchOnly: true,
    touchStartThreshold: 5,
    animation: still ? 0 : 120,
    onEnd({ item, newIndex, oldIndex }) {
      const position = Number(item.dataset.position);
      if (newIndex !== oldIndex) {
        order.drop(position, newIndex);
        moved(position);
        item.querySelector(".grip").focus({ preventScroll: true });
      }
    },
  });

  return {
    aside: element(
      "section",
      { class: "ranking", "aria-label": "Order" },
      element("h2", {}, "Best first"),
      list,
      element(
        "p",
        { class: "soft hint" },
        element("kbd", {}, "1"),
        " … ",
        element("kbd", {}, digits.at(-1)),
        " give the marked response its place; the same place is a tie.",
      ),
    ),
    bar: [
      element(
        "div",
        { class: "choices" },
        summary,
        button("Submit order", "⏎", finish, { class: "choice main" }),
        button("All bad", "0", allBad, { class: "choice" }),
      ),
    ],
    keys: [
      {
        key: digits,
        shown: ["1", "…", digits.at(-1)],
        label: "place of the selected response; the same place is a tie",
        run: place,
      },
      { key: "j", label: "select the next", run: () => neighbour(1), repeats: true },
      { key: "k", label: "select the one before", run: () => neighbour(-1), repeats: true },
      { key: ["ArrowDown"], run: () => neighbour(1), where: inList, repeats: true },
      { key: ["ArrowUp"], run: () => neighbour(-1), where: inList, repeats: true },
      { key: "Alt+ArrowUp", label: "a better place for the selected response", run: () => step(selected(), -1) },
      { key: "Alt+ArrowDown", label: "a worse place for it", run: () => step(selected(), 1) },
      { key: "=", label: "tie it with the one above, or part them", run: () => tie(selected()) },
      { key: "0", label: "all bad", run: allBad },
      { key: ["Enter", "Control+Enter"], label: "submit the order", run: finish },
    ],
    draft: () => (touched ? { ranking: order.groups() } : null),
    selectionChanged: draw,
  };
}
