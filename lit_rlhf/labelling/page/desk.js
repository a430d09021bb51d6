// Judging one item after the other, wherever the items come from: the queue or a prompt that was typed in.

import { get, newSubmission, post } from "./api.js";
import { draftsOf, guard, undelivered, unsent } from "./drafts.js";
import { announce, button, element } from "./dom.js";
import { showItem } from "./item.js";
import { verdictInWords } from "./words.js";

/** @param goOn what follows a judgement. Returns { show(task, extra), clear(), lost(problem), undo(), sendWhatIsLeft() }. */
export function openDesk(shell, goOn) {
  const { place, session } = shell;
  const drafts = draftsOf(session.annotator);
  let leave = () => {};
  let last = null;
  let kept = null;
  let undoing = false;
  guard(() => unsent.read(session.annotator) !== null);

  function clear() {
    leave();
    leave = () => {};
    place.removeAttribute("inert");
  }

  function show(task, extra = {}) {
    clear();
    leave = showItem(place, task, { deliver, undo, drafts, last, kept, highest: session.highest_rating, ...extra });
    kept = null;
  }

  /** Never returns: what she wrote stays in this tab. */
  function lost(problem) {
    clear();
    return shell.lost(problem);
  }

  async function send(judgement, mode) {
    unsent.keep(session.annotator, { judgement, mode });
    const answer = await shell
      .reach(() => post("/api/judgements", judgement))
      .catch((problem) => {
        if (problem.isFinal) return lost(problem);
        unsent.drop(session.annotator);
        throw problem;
      });
    unsent.drop(session.annotator);
    drafts.drop(judgement.task);
    shell.progress(answer.progress);
    return answer;
  }

  /** True when the judgement was taken. */
  async function deliver(judgement, task, complain) {
    let answer;
    try {
      answer = await send(judgement, task.mode);
    } catch (problem) {
      if (problem.status === 409) await conflict(task);
      else complain(problem.message);
      return problem.status === 409;
    }
    last = kept = `${verdictInWords(judgement.verdict, task.mode)}.`;
    if (answer.feedback) await feedback(answer.feedback, judgement, task);
    goOn();
    return true;
  }

  /** Judged in another tab, or from the history: shows what stands there now. A text that she wrote stays. */
  async function conflict(task) {
    if (task.mode !== "rewrite") drafts.drop(task.number);
    const present = await shell.reach(() => get(`/api/task/${task.number}`)).catch(lost);
    const notice = "This item was judged in another tab meanwhile. Judge it again to replace that, or leave it.";
    show(present.task, { notice, offers: [{ label: "Leave it", run: goOn }] });
  }

  async function feedback({ right, expected, explanation }, judgement, task) {
    await new Promise((resolve) => {
      const go = button("Go on", "⏎", resolve, { class: "choice main" });
      const said = (verdict) => verdictInWords(verdict, task.mode);
      place.removeAttribute("inert");
      place
        .querySelector(".bar")
        .replaceChildren(
          element(
            "div",
            { class: `feedback ${right ? "right" : "wrong"}`, role: "status" },
            element("h2", {}, right ? "Right" : "Not what was expected"),
            element(
              "p",
              {},
              right
                ? `You said: ${said(judgement.verdict)}.`
                : `Expected: ${said(expected)}. You said: ${said(judgement.verdict)}.`,
            ),
            explanation && element("p", { dir: "auto", class: "explanation" }, explanation),
            go,
          ),
        );
      go.focus();
    });
  }

  async function undo() {
    if (undoing) return;
    undoing = true;
    const submission = newSubmission();
    try {
      const { task, progress } = await shell.reach(() => post("/api/undo", { submission }));
      shell.progress(progress);
      last = kept = null;
      show(task, { notice: "Taken back." });
    } catch (problem) {
      if (problem.isFinal) await lost(problem);
      const line = place.querySelector(".message-line");
      if (line) line.textContent = problem.status === 404 ? "There is nothing to take back." : problem.message;
    } finally {
      undoing = false;
    }
  }

  /** What an earlier visit of this tab could not deliver; the same submission twice counts once. */
  async function sendWhatIsLeft() {
    const left = unsent.read(session.annotator);
    if (left !== null) {
      const { verdict } = left.judgement;
      await send(left.judgement, left.mode).catch((problem) => {
        const words = verdictInWords(verdict, left.mode);
        undelivered.keep({ annotator: session.annotator, why: problem.message, words, text: verdict.rewrite });
      });
    }
    sayWhatIsLeft();
  }

  /** Above the item until she has seen it: what the server did not take, and that somebody else left something. */
  function sayWhatIsLeft() {
    const others = unsent.owners().filter((name) => name !== session.annotator);
    const mine = undelivered.read().filter(({ annotator }) => annotator === session.annotator);
    const lines = mine.map(({ why, words, text }) => [
      element("p", {}, `What you said before (${words}) was not taken: ${why}`),
      text && element("pre", { class: "text", dir: "auto", tabindex: 0 }, text),
    ]);
    for (const name of others) {
      const words = "has a judgement in this tab that is not sent: it goes when that name is signed in here.";
      lines.push(element("p", {}, element("bdi", {}, name), ` ${words}`));
    }
    if (!lines.length) return;
    const node = element("div", { class: "leftover", role: "status" }, lines);
    const seen = () => {
      undelivered.drop(session.annotator);
      node.remove();
    };
    node.append(button("Seen", null, seen));
    document.getElementById("banner").after(node);
  }

  return { show, clear, lost, undo, sendWhatIsLeft };
}
