// Nodes, announcements and dialogs. Strings become text, never markup.

/** A node with attributes, listeners (`onclick`, …) and children; what is null or false is left out. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A button that shows its key. */
export function button(label, key, run, attributes = {}) {
  return element(
    "button",
    { type: "button", onclick: run, ...attributes, ...(key ? { "aria-keyshortcuts": ariaKey(key) } : {}) },
    element("span", { class: "label" }, label),
    key ? element("kbd", { "aria-hidden": "true" }, key) : null,
  );
}

function ariaKey(key) {
  return { "Ctrl ⏎": "Control+Enter", "⏎": "Enter" }[key] ?? key;
}

/** Says something to a screen reader. */
export function announce(text) {
  document.getElementById("announcements").textContent = text;
}

/** Opens a modal dialog around `content`; it leaves the page when it is closed, and focus goes back. */
export function openDialog(title, ...content) {
  const heading = element("h2", { id: "dialog-title" }, title);
  const close = element("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
  const dialog = element("dialog", { "aria-labelledby": "dialog-title" }, heading, close, ...content);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
