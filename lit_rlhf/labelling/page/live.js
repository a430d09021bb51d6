// A prompt is typed in, the model answers several times, and the answers are put in order.

import { post } from "./api.js";
import { openDesk } from "./desk.js";
import { announce, element } from "./dom.js";
import { openShell } from "./shell.js";

const ANSWER_SECONDS = 900;

const shell = await openShell("live");
const desk = openDesk(shell, ask);
let count = shell.session.live;

function ask() {
  desk.clear();
  const prompt = element("textarea", { id: "prompt", rows: 7, required: true, dir: "auto" });
  const number = element("input", { id: "count", type: "number", min: 2, max: 9, value: count, required: true });
  const send = element("button", { class: "choice main" }, "Ask the model");
  const line = element("p", { class: "message-line", role: "status" });
  const form = element(
    "form",
    { class: "live" },
    element("label", { for: "prompt", class: "heading" }, "Prompt"),
    prompt,
    element("div", { class: "row" }, element("label", { for: "count" }, "Answers "), number, send),
    line,
  );
  prompt.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    count = Number(number.value);
    send.disabled = true;
    const started = performance.now();
    const tick = setInterval(() => {
      send.textContent = `The model answers … ${Math.round((performance.now() - started) / 1000)} s`;
    }, 1000);
    announce("The model answers. This may take a while.");
    send.textContent = "The model answers …";
    try {
      const { task } = await post("/api/live", { prompt: prompt.value, k: count }, ANSWER_SECONDS);
      desk.show(task, { offers: [{ label: "Another prompt", run: ask }] });
    } catch (problem) {
      if (problem.isFinal) await desk.lost(problem);
      line.textContent = problem.message;
      send.textContent = "Ask the model";
      send.disabled = false;
    } finally {
      clearInterval(tick);
    }
  });
  shell.place.replaceChildren(element("div", { class: "state" }, element("h1", {}, "Ask, then rank"), form));
  prompt.focus();
}

await desk.sendWhatIsLeft();
ask();
