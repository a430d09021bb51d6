// What is not sent yet, kept in this tab so that a reload loses nothing. Nothing else is stored in the browser.

const UNSENT = "unsent:";

/** @param {string} owner the annotator: who signs in next in the same tab does not see it. */
export function draftsOf(owner) {
  const key = (task) => `draft:${owner}:${task}`;
  return {
    read: (task) => read(key(task)),
    write: (task, draft) => write(key(task), draft),
    drop: (task) => write(key(task), null),
  };
}

/** The judgement that the server has not acknowledged, one of each annotator: `{ judgement, mode }`. */
export const unsent = {
  read: (annotator) => read(UNSENT + annotator),
  keep: (annotator, said) => write(UNSENT + annotator, said),
  drop: (annotator) => write(UNSENT + annotator, null),
  /** Who left one in this tab. */
  owners: () => keys().flatMap((key) => (key.startsWith(UNSENT) ? [key.slice(UNSENT.length)] : [])),
};

/** What the server refused when it was sent later, until she has seen it: `[{ annotator, why, words, text }]`. */
export const undelivered = {
  read: () => read("undelivered") ?? [],
  keep: (said) => write("undelivered", [...undelivered.read(), said]),
  drop: (annotator) =>
    write(
      "undelivered",
      undelivered.read().filter((said) => said.annotator !== annotator),
    ),
};

/** True the first time that it is asked in this tab. */
export function isFirst(what) {
  const before = read(`told:${what}`);
  write(`told:${what}`, true);
  return !before;
}

let within = false;
window.addEventListener("pageshow", () => (within = false));

/** The next address is one of this tab's own pages, where everything is found again. */
export function goWithin() {
  within = true;
}

/** Asks before the tab is closed on what would be lost with it; `isLost()` says whether there is anything. */
export function guard(isLost) {
  const ask = (event) => {
    if (!within && isLost()) event.preventDefault();
  };
  window.addEventListener("beforeunload", ask);
  return () => window.removeEventListener("beforeunload", ask);
}

function keys() {
  try {
    return Object.keys(sessionStorage);
  } catch {
    return [];
  }
}

function read(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key));
  } catch {
    return null;
  }
}

function write(key, value) {
  try {
    if (value === null) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, JSON.stringify(value));
  } catch {
    // A browser that stores nothing, or is full: the page works, but a reload loses the draft.
  }
}
