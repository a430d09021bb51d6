// The page of the queue: the next item, or one of the past, whose number then stands in the address (#task-12).

import { get } from "./api.js";
import { openDesk } from "./desk.js";
import { announce, button, element } from "./dom.js";
import { bind } from "./keys.js";
import { openShell } from "./shell.js";

const ASK_AGAIN_MILLISECONDS = 10_000;
const STATES = {
  done: ["All judged", "There is nothing left for you. Thank you."],
  quota: ["Your share is done", "You have judged as many items as were planned for you. Thank you."],
  empty: ["Nothing to judge yet", "There are no items. Whoever runs the server adds some: lit-rlhf label serve FILE."],
  live: ["Ask the model", "There are no items to judge. Type a prompt in, and judge what the model answers."],
  waiting: ["One moment", "Others are judging what is left. This page asks again by itself, every ten seconds."],
};

const shell = await openShell("judge", openPast);
const desk = openDesk(shell, goOn);
let turn = 0;
let shown; // the task in the address; null = the queue
let free = () => {};

function taskInAddress() {
  const number = /^#task-(\d+)$/.exec(location.hash)?.[1];
  return number ? Number(number) : null;
}

async function load() {
  const mine = ++turn;
  shown = taskInAddress();
  free();
  free = () => {};
  let answer;
  try {
    answer = await shell.reach(() => get(shown === null ? "/api/task" : `/api/task/${shown}`));
  } catch (problem) {
    if (shown === null || problem.isFinal) return desk.lost(problem);
    return goOn();
  }
  if (mine !== turn) return;
  if (answer.progress) shell.progress(answer.progress);
  if (answer.task === null) showState(answer.why, mine);
  else if (shown === null) desk.show(answer.task, answer.progress.mine === 0 ? shell.welcome() : {});
  else desk.show(answer.task, { notice: "From your history.", offers: [{ label: "Back to the next item", run: goOn }] });
  if (answer.progress?.mine === 0) shell.openGuidelines();
}

function goOn() {
  if (location.hash) history.replaceState(null, "", location.pathname);
  load();
}

function openPast(number) {
  if (number === shown) return;
  history.pushState(null, "", `#task-${number}`);
  load();
}

function showState(why, mine) {
  const live = why === "empty" && shell.session.live > 0;
  const [title, words] = STATES[live ? "live" : why] ?? STATES.done;
  desk.clear();
  const line = element("p", { class: "message-line", role: "status" });
  const heading = element("h1", { tabindex: -1 }, title);
  const undo = { key: "u", label: "take your last judgement back", run: desk.undo };
  shell.place.replaceChildren(
    element(
      "div",
      { class: "state" },
      heading,
      element("p", {}, words),
      line,
      element(
        "div",
        { class: "row" },
        live && element("a", { href: "/live" }, "Type a prompt"),
        button("Ask again", null, load),
        button("Undo the last", "u", desk.undo, { class: "quiet" }),
      ),
    ),
  );
  free = bind([undo]);
  heading.focus();
  announce(`${title}. ${words}`);
  if (why !== "waiting") return;
  setTimeout(() => {
    if (mine === turn) load();
  }, ASK_AGAIN_MILLISECONDS);
}

window.addEventListener("popstate", () => {
  if (taskInAddress() !== shown) load();
});
await desk.sendWhatIsLeft();
load();
