// Talking to the server: JSON of the same origin, and waiting for it while it is away.

/** The server answered, and the answer is no. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Nothing more can be done in this tab: signed out, or somebody else is signed in. */
  get isFinal() {
    return [401, 412].includes(this.status);
  }
}

/** The server did not answer, or asked to come back later. */
export class Unreachable extends Error {}

let csrf = "";
let annotator = null;

/** Whose page this is from now on: tabs share the session, and another may sign somebody else in. */
export function sitAs(name) {
  annotator = name;
}

async function exchange(method, path, body, seconds) {
  const headers = { Accept: "application/json" };
  if (annotator !== null) headers["X-Annotator"] = encodeURIComponent(annotator);
  if (method === "POST") Object.assign(headers, { "Content-Type": "application/json", "X-CSRF": csrf });
  let answer, content;
  try {
    const signal = AbortSignal.timeout(1000 * seconds);
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", signal });
    content = await answer.json().catch(() => null);
  } catch {
    throw new Unreachable("The server does not answer.");
  }
  if (answer.ok && content !== null) return content;
  const sentence = content?.error ?? `The server answered ${answer.status}.`;
  if (answer.ok || answer.status >= 500 || answer.status === 429) throw new Unreachable(sentence);
  throw new Refused(answer.status, sentence);
}

export async function get(path, seconds = 20) {
  return exchange("GET", path, undefined, seconds);
}

/** A session that was begun again has a new CSRF value: asks for it once. */
export async function post(path, body, seconds = 20) {
  try {
    return await exchange("POST", path, body, seconds);
  } catch (problem) {
    if (problem.status !== 403) throw problem;
    const before = csrf;
    await session();
    if (csrf === before) throw problem;
    return exchange("POST", path, body, seconds);
  }
}

export async function session() {
  const answer = await get("/api/session");
  csrf = answer.csrf;
  return answer;
}

export async function signIn(annotator) {
  const answer = await post("/api/session", { annotator });
  csrf = answer.csrf;
  return answer;
}

/** Random, as RFC 9562 spells it; `crypto.randomUUID` is missing where the page comes over plain HTTP. */
export function newSubmission() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

let nudge = () => {};

/** Tries again now, where something waits for the server. */
export function tryNow() {
  nudge();
}

/**
 * What `action` returns once the server answers; tries after 1, 2, 4, 8, 8, … seconds.
 * `say(sentence)` is told that it waits, and `say(null)` that this is over.
 */
export async function untilReachable(action, say) {
  for (let seconds = 1; ; seconds = Math.min(2 * seconds, 8)) {
    try {
      const result = await action();
      say(null);
      return result;
    } catch (problem) {
      if (!(problem instanceof Unreachable)) {
        say(null);
        throw problem;
      }
      say(problem.message);
      await new Promise((resolve) => {
        nudge = resolve;
        setTimeout(resolve, 1000 * seconds);
        window.addEventListener("online", resolve, { once: true });
      });
    }
  }
}
