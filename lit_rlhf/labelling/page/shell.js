// What stands around the work: the head of the page, who is signed in, the drawer, and whether the server answers.

import { Refused, get, session as askSession, signIn, sitAs, tryNow, untilReachable } from "./api.js";
import { button, element, openDialog } from "./dom.js";
import { goWithin, isFirst, unsent } from "./drafts.js";
import { bind, openHelp } from "./keys.js";
import { writeSanitized } from "./texts.js";
import { progressInWords, verdictInWords } from "./words.js";

const at = (id) => document.getElementById(id);
const WIDE = window.matchMedia("(min-width: 75rem)");

/**
 * Drops the token from the address, asks who she is where that is not known, and draws the head.
 *
 * @param page "judge", "live" or "agreement"
 * @param openTask what a click in the history does; without it there is no history
 * @returns { place, session, progress(progress), reach(action), lost(problem), welcome(), openGuidelines() }
 */
export async function openShell(page, openTask = null) {
  if (location.search) history.replaceState(history.state, "", location.pathname + location.hash);
  const shell = {
    place: at("work"),
    reach: (action) => untilReachable(action, say),
    lost,
    progress: drawProgress,
    session: null,
  };
  shell.session = await shell.reach(askSession).catch(lost);
  const looksOnly = page === "agreement"; // who does not judge needs no name
  if (shell.session.annotator === null && !looksOnly) shell.session = await askName(shell.place, shell.session);
  sitAs(shell.session.annotator);
  drawHead(shell, page, openTask);
  return shell;
}

/** A sentence about the server, with a button to try at once; null when it answers again. */
function say(sentence) {
  const banner = at("banner");
  if (sentence === null) return banner.replaceChildren();
  if (banner.firstChild) return;
  const kept = unsent.owners().length
    ? "Your judgement is kept in this tab and sent again by itself."
    : "This page tries again by itself.";
  banner.append(element("p", {}, `${sentence} ${kept} `), button("Try now", null, tryNow));
}

/** The end of the road for this tab: nothing here works without a valid address. Never returns. */
function lost(problem) {
  if (!(problem instanceof Refused)) throw problem;
  const words = "Open the address that you were given once more, in this tab: what is not sent yet is kept here.";
  const [title, sentence] = {
    401: ["You are signed out", words],
    403: ["You cannot see this page", problem.message],
    412: ["Somebody else is signed in", `${problem.message} What is not sent yet is kept in this tab.`],
  }[problem.status] ?? ["This does not work", problem.message];
  const heading = element("h1", { tabindex: -1 }, title);
  at("work").removeAttribute("inert");
  at("work").replaceChildren(
    element(
      "div",
      { class: "state" },
      heading,
      element("p", {}, sentence),
      problem.status === 412 && element("div", { class: "row" }, button("Load the page again", null, loadAgain)),
    ),
  );
  heading.focus();
  return new Promise(() => {});
}

function loadAgain() {
  goWithin();
  location.replace(location.pathname);
}

function nameForm(value, done) {
  const field = element("input", { id: "name", required: true, maxlength: 40, autocomplete: "nickname", value });
  const message = element("p", { class: "message-line", role: "alert" });
  const form = element("form", { class: "row" }, field, element("button", { class: "choice main" }, "Begin"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      done(await signIn(field.value.trim()));
    } catch (problem) {
      message.textContent = problem.message;
    }
  });
  return [element("label", { for: "name", class: "heading" }, "Your name"), form, message];
}

async function askName(place, session) {
  return new Promise((resolve) => {
    const words = "Your name is kept with your judgements, so that they can be compared with those of the others.";
    place.replaceChildren(
      element(
        "div",
        { class: "state" },
        element("h1", {}, "Who is judging?"),
        element("p", { class: "soft" }, words),
        nameForm(unsent.owners()[0] ?? "", resolve),
        element("p", { class: "soft" }, `The judgements go to ${session.store}.`),
      ),
    );
    at("name").focus();
  });
}

function drawHead(shell, page, openTask) {
  const { session } = shell;
  const link = (name, href, label) =>
    element("a", { href, "aria-current": name === page && "page", onclick: goWithin }, label);
  const name = session.annotator === null
    ? ""
    : session.named
    ? element("span", { class: "who" }, session.annotator)
    : element(
        "button",
        { type: "button", class: "who", "aria-label": `Change your name, ${session.annotator}`, onclick: changeName },
        session.annotator,
      );
  function changeName() {
    openDialog(
      "Change your name",
      element("p", { class: "soft" }, "Judgements so far stay with the name that they were made under."),
      ...nameForm(session.annotator, loadAgain),
    );
  }
  const guidelines = () => toggleDrawer("Guidelines", (node) => writeSanitized(node, session.guidelines));
  const past = () => toggleDrawer("History", (node) => drawHistory(node, openTask));
  const keys = [
    session.guidelines && { key: "g", name: "Guidelines", label: "guidelines", run: guidelines },
    openTask && { key: "h", name: "History", label: "what you said, to change it", run: past },
    page !== "agreement" && { key: "?", name: "Keys", label: "this list", run: openHelp },
  ].filter(Boolean);
  const pages = [
    link("judge", "/", "Judge"),
    session.live && link("live", "/live", "Live"),
    session.agreement && link("agreement", "/agreement", "Agreement"),
  ].filter(Boolean);
  at("top").replaceChildren(
    element("div", { class: "store" }, session.store),
    pages.length > 1 ? element("nav", { "aria-label": "Pages" }, pages) : "",
    element("div", { class: "progress", id: "progress" }),
    element(
      "div",
      { class: "tools" },
      keys.map(({ key, name, run }) => button(name, key, run, { class: "quiet" })),
      name,
    ),
  );
  const close = { key: "Escape", run: closeDrawer, where: () => !at("drawer").hidden };
  bind([...keys, close]);
  /** For who has not judged yet: the guidelines where there is room, once; else a word that there are some. */
  shell.openGuidelines = () => {
    const isNew = session.guidelines && WIDE.matches && at("drawer").hidden;
    if (isNew && isFirst(`guidelines:${session.annotator}`)) guidelines();
  };
  shell.welcome = () =>
    session.guidelines && !WIDE.matches
      ? { notice: "Read the guidelines first.", offers: [{ label: "Read them", run: guidelines }] }
      : {};
}

function drawProgress(progress) {
  const words = progressInWords(progress);
  const bar = element("progress", {
    max: Math.max(progress.mine + progress.left, 1),
    value: progress.mine,
    "aria-label": "Judged by you",
  });
  at("progress")?.replaceChildren(bar, element("span", {}, words));
}

let opener = null;

function toggleDrawer(title, fill) {
  const drawer = at("drawer");
  if (!drawer.hidden && drawer.dataset.title === title) return closeDrawer();
  if (drawer.hidden) opener = document.activeElement;
  const content = element("div", { class: "drawer-content rich" });
  const heading = element("h2", { tabindex: -1 }, title);
  const close = element(
    "button",
    { type: "button", class: "close", "aria-label": `Close ${title}`, onclick: closeDrawer },
    "×",
  );
  drawer.dataset.title = title;
  drawer.setAttribute("aria-label", title);
  drawer.replaceChildren(element("header", {}, heading, close), content);
  drawer.hidden = false;
  fill(content);
  heading.focus({ preventScroll: true });
}

function closeDrawer() {
  at("drawer").hidden = true;
  opener?.focus?.({ preventScroll: true });
}

async function drawHistory(node, openTask) {
  node.textContent = "…";
  try {
    const { judgements } = await get("/api/history");
    const rows = judgements.map((one) =>
      element(
        "li",
        {},
        element(
          "button",
          { type: "button", onclick: () => (WIDE.matches || closeDrawer(), openTask(one.task)) },
          element("bdi", { class: "said" }, verdictInWords(one.verdict, one.mode)),
          element("time", { datetime: one.at, class: "soft" }, timeOf(one.at)),
          element("bdi", { class: "asked" }, one.prompt),
          one.flag && element("span", { class: "soft" }, "Flag: ", element("bdi", {}, one.flag)),
          one.comment && element("span", { class: "soft" }, "Comment: ", element("bdi", {}, one.comment)),
        ),
      ),
    );
    node.replaceChildren(
      rows.length ? element("ol", { class: "history" }, rows) : element("p", { class: "soft" }, "Nothing judged yet."),
    );
  } catch (problem) {
    node.textContent = problem.message;
  }
}

function timeOf(at) {
  const date = new Date(at);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}
