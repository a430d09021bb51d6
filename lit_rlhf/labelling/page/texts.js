// A prompt and its responses on the page. They are hostile: text is set as text, in a box of its own direction, and the
// only markup is what the server's sanitizer let through.

import { get, untilReachable } from "./api.js";
import { element } from "./dom.js";
import { letter } from "./words.js";

const CONTROL = /(⟦U\+[0-9A-F]{4,6}⟧)/;
const MOST_MARKED_CONTROLS = 2_000;
export const TOO_LONG_FOR_MARKDOWN = "A text is too long for Markdown, and shown as it is.";

/** Fills `node` with text; the server's marks of invisible and direction characters are set off from it. */
function writeText(node, text) {
  const pieces = text.split(CONTROL);
  if (pieces.length === 1 || pieces.length > MOST_MARKED_CONTROLS) node.textContent = text;
  else
    node.replaceChildren(...pieces.map((piece, i) => (i % 2 ? element("span", { class: "control" }, piece) : piece)));
}

/** Parsed where nothing is loaded and nothing runs; a link leaves this page alone. */
export function writeSanitized(node, html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  for (const link of parsed.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  node.replaceChildren(...parsed.body.childNodes);
}

function writeMarked(node, pieces) {
  node.replaceChildren(...pieces.map(({ text, only }) => (only ? element("mark", {}, text) : text)));
}

/**
 * A text that is folded where it is long. `unfold` overrides what she chose for this one.
 *
 * @param first what is to be seen while it is folded: gives the node at whose beginning it opens
 */
function foldable(name, content, first = () => null) {
  const more = element("button", { type: "button", class: "more", hidden: true });
  let folded = true;
  const update = () => {
    content.classList.toggle("folded", folded);
    more.hidden = folded && content.scrollHeight <= content.clientHeight + 8;
    const hides = folded && !more.hidden;
    const from = hides ? first() : null;
    content.scrollTop = from === null ? 0 : from.offsetTop - content.offsetTop;
    content.classList.toggle("hides-above", hides && content.scrollTop > 8);
    content.classList.toggle("hides-below", hides && content.scrollTop + content.clientHeight + 8 < content.scrollHeight);
    more.textContent = folded ? `Show all of ${name}` : `Show less of ${name}`;
    more.setAttribute("aria-expanded", String(!folded));
  };
  const unfold = (open) => {
    folded = !open;
    update();
  };
  more.addEventListener("click", () => unfold(folded));
  new ResizeObserver(update).observe(content);
  return { more, unfold };
}

/** A text of a task, with a button for the rest of one that was cut. */
function readable(content, address, name, body, { opened, say }) {
  let { text, cut } = content;
  let shown = { markdown: false };
  const words = `Read all ${content.length.toLocaleString("en")} characters of ${name}`;
  const rest = element("button", { type: "button", class: "more", onclick: readRest, hidden: !content.cut }, words);

  async function readRest() {
    rest.disabled = true;
    try {
      ({ text } = await get(address));
      cut = false;
      rest.hidden = true;
      if (!render(shown)) say(TOO_LONG_FOR_MARKDOWN);
      opened();
    } catch (problem) {
      rest.disabled = false;
      say(problem.message);
    }
  }

  /** All of it, however long the server is away. */
  const whole = async () => (cut ? (await untilReachable(() => get(address), say)).text : text);

  /** True where it is shown as the view asks. @param pieces what `marksOf` gives, to be shown instead */
  function render(view, pieces = null) {
    shown = view;
    const html = view.markdown && text === content.text && !pieces ? content.html : null;
    body.classList.toggle("rich", Boolean(html));
    if (pieces) writeMarked(body, pieces);
    else if (html) writeSanitized(body, html);
    else writeText(body, text);
    return !view.markdown || html !== null;
  }

  return { rest, render, whole, isCut: content.cut, text: () => text };
}

const textBox = () => element("div", { class: "text", dir: "auto" });

/**
 * The prompt: `{ node, render(view), unfold(open) }`. `say` is told what went wrong. Of a long conversation the last
 * turn of a user is seen, which is what the responses answer.
 */
export function promptBlock(task, say) {
  const content = element("div", { class: "messages" });
  const asked = Math.max(0, task.prompt.findLastIndex(({ role }) => role === "user"));
  const name = task.prompt.length > 1 ? `the ${task.prompt.length} turns` : "the prompt";
  const { more, unfold } = foldable(name, content, () => (asked ? content.children[asked] : null));
  const messages = task.prompt.map((message, i) => {
    const body = textBox();
    const name = task.prompt.length > 1 ? `turn ${i + 1}` : "the prompt";
    const tools = { say, opened: () => unfold(true) };
    const words = readable(message, `/api/text/${task.number}/prompt/${i}`, name, body, tools);
    const role = element("h2", { class: "role" }, message.role ?? "Prompt");
    content.append(element("div", { class: "message", "data-role": message.role }, role, body, words.rest));
    return words;
  });
  return {
    node: element("section", { class: "prompt", "aria-label": "Prompt" }, content, more),
    unfold,
    render: (view) => messages.map((message) => message.render(view)).every(Boolean),
  };
}

/** A response: `{ node, text(), whole(), isCut, render(view, pieces), unfold(open), badge(text) }`. */
export function responseCard(task, position, say) {
  const name = letter(position);
  const body = textBox();
  const badge = element("span", { class: "badge", hidden: true });
  const { more, unfold } = foldable(name, body);
  const tools = { say, opened: () => unfold(true) };
  const words = readable(task.responses[position], `/api/text/${task.number}/${position}`, name, body, tools);
  const id = `response-${position}`;
  const heading = element("h2", { id }, element("span", { class: "spoken" }, "Response "), name);
  return {
    node: element(
      "article",
      { class: "response", "aria-labelledby": id, "data-position": position },
      element("header", {}, heading, badge),
      body,
      element("footer", {}, more, words.rest),
    ),
    text: words.text,
    whole: words.whole,
    isCut: words.isCut,
    render: words.render,
    unfold,
    badge(label) {
      badge.textContent = label;
      badge.hidden = !label;
    },
  };
}
