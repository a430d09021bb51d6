// What is not sent yet, kept in this tab so that a reload loses nothing. Nothing else is stored in the browser.

/** @param {string} owner the annotator: who signs in next in the same tab does not see it. */
export function draftsOf(owner) {
  const key = (task) => `draft:${owner}:${task}`;
  return {
    read: (task) => read(key(task)),
    write: (task, draft) => write(key(task), draft),
    drop: (task) => write(key(task), null),
  };
}

/** The judgement that the server has not acknowledged. */
export const unsent = {
  read: () => read("unsent"),
  keep: (judgement) => write("unsent", judgement),
  drop: () => write("unsent", null),
};

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
