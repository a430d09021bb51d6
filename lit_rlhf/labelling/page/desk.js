// Judging one item after the other, wherever the items come from: the queue or a prompt that was typed in.

import { get, newSubmission, post } from "./api.js";
import { draftsOf, unsent } from "./drafts.js";
import { announce, button, element } from "./dom.js";
import { showItem } from "./item.js";
import { verdictInWords } from "./words.js";

/** @param goOn what follows a judgement. Returns { show(task, extra), clear(), undo(), sendWhatIsLeft() }. */
export function openDesk(shell, goOn) {
  const { place, session } = shell;
  const drafts = draftsOf(session.annotator);
  let leave = () => {};
  let last = null;
  let undoing = false;

  function clear() {
    leave();
    leave = () => {};
    place.removeAttribute("inert");
  }

  function show(task, extra = {}) {
    clear();
    leave = showItem(place, task, { deliver, undo, drafts, last, highest: session.highest_rating, ...extra });
  }

  async function send(judgement) {
    unsent.keep({ annotator: session.annotator, judgement });
    const answer = await shell
      .reach(() => post("/api/judgements", judgement))
      .catch((problem) => {
        if (problem.status === 401) return shell.lost(problem);
        unsent.drop();
        throw problem;
      });
    unsent.drop();
    drafts.drop(judgement.task);
    shell.progress(answer.progress);
    return answer;
  }

  /** True when the judgement was taken. */
  async function deliver(judgement, task, complain) {
    let answer;
    try {
      answer = await send(judgement);
    } catch (problem) {
      if (problem.status === 409) await conflict(task);
      else complain(problem.message);
      return problem.status === 409;
    }
    last = `${verdictInWords(judgement.verdict, task.mode)}.`;
    if (answer.feedback) await feedback(answer.feedback, judgement, task);
    else announce(`Kept: ${last}`);
    goOn();
    return true;
  }

  /** Judged in another tab, or from the history: shows what stands there now. A text that she wrote stays. */
  async function conflict(task) {
    if (task.mode !== "rewrite") drafts.drop(task.number);
    const present = await shell.reach(() => get(`/api/task/${task.number}`)).catch(shell.lost);
    const notice = "This item was judged in another tab meanwhile. Judge it again to replace that, or leave it.";
    show(present.task, { notice, away: { label: "Leave it", run: goOn } });
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
      last = null;
      show(task, { notice: "Taken back." });
    } catch (problem) {
      if (problem.status === 401) await shell.lost(problem);
      const line = place.querySelector(".message-line");
      if (line) line.textContent = problem.status === 404 ? "There is nothing to take back." : problem.message;
    } finally {
      undoing = false;
    }
  }

  /** What an earlier visit of this tab could not deliver; the same submission twice counts once. */
  async function sendWhatIsLeft() {
    const left = unsent.read();
    if (left === null || left.annotator !== session.annotator) return;
    await send(left.judgement).catch((problem) => announce(problem.message));
  }

  return { show, clear, undo, sendWhatIsLeft };
}
