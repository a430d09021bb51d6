// The keyboard: layers of bindings, the latest first. A binding is { key, label, run, where }.

import { element, openDialog } from "./dom.js";

const layers = [];
let on = true;

/** Adds bindings; returns what takes them away again. */
export function bind(bindings) {
  layers.unshift(bindings);
  return () => {
    if (layers.includes(bindings)) layers.splice(layers.indexOf(bindings), 1);
  };
}

/**
 * `1`, `u`, `Alt+ArrowUp`, `Control+Enter`: digits by the key itself, so that a French keyboard types them without Shift,
 * and letters too where the layout has none of ours.
 */
function nameOf(event) {
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
  const letter = /^Key([A-Z])$/.exec(event.code)?.[1];
  const typed = event.key.length === 1 && event.key > "~" ? (letter ?? event.key) : event.key;
  const plain = typed.length === 1 ? typed.toLowerCase() : typed;
  const held = [event.ctrlKey || event.metaKey ? "Control+" : "", event.altKey ? "Alt+" : ""].join("");
  return held + (digit && !event.shiftKey ? digit : plain);
}

function isTyping(target) {
  return target.closest?.("input, textarea, select, [contenteditable]") !== null;
}

/** Enter and Space belong to what has the focus; but what is dragged is selected by Space alone. */
function isPressing(event) {
  const pressed = event.target.closest?.("button, a, summary");
  if (!pressed || event.ctrlKey) return false;
  return event.key === " " || (event.key === "Enter" && !pressed.matches(".grip"));
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
  const name = nameOf(event);
  if (isPressing(event)) return;
  for (const bindings of [...layers]) {
    for (const binding of bindings) {
      if (![binding.key].flat().includes(name)) continue;
      if (isTyping(event.target) && !binding.whileTyping) continue;
      if (!on && name.length === 1) continue;
      if (binding.where && !binding.where(event.target)) continue;
      event.preventDefault();
      if (!event.repeat || binding.repeats) binding.run(name);
      return;
    }
  }
});

/** The list of keys, and the switch for people whose speech input or keyboard presses them by accident. */
export function openHelp() {
  const rows = layers.flat().filter((binding) => binding.label);
  const box = element("input", {
    type: "checkbox",
    id: "single-keys",
    checked: on,
    onchange: () => (on = box.checked),
  });
  openDialog(
    "Keys",
    element(
      "dl",
      { class: "keys" },
      rows.map((binding) => [
        element(
          "dt",
          {},
          shownKeys(binding).flatMap((key, i) => [i ? " " : "", element("kbd", {}, key)]),
        ),
        element("dd", {}, binding.label),
      ]),
    ),
    element("p", { class: "soft" }, "In a text field, Escape gives the keys back."),
    element("p", {}, element("label", { for: "single-keys" }, box, " Keys without Ctrl or Alt are on")),
  );
}

function shownKeys(binding) {
  const names = { ArrowUp: "↑", ArrowDown: "↓", Enter: "⏎", "Control+Enter": "Ctrl ⏎", "Alt+ArrowUp": "Alt ↑" };
  Object.assign(names, { "Alt+ArrowDown": "Alt ↓", Escape: "Esc" });
  return (binding.shown ?? [binding.key].flat()).map((key) => names[key] ?? key);
}
