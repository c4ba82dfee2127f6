// The history: what left this device in each run, and what became of it.

import { fill } from "./panels.js";
import { call, Locked, reason } from "./program.js";
import { bounded, byId, el, marked } from "./text.js";

const state = { history: null, error: "", says: "" }; // says: what came of the last request to forget a run

/** Fetches the history again, and draws it. */
export async function refreshHistory() {
  try {
    Object.assign(state, { history: await call("GET", "/api/history"), error: "" });
  } catch (error) {
    if (error instanceof Locked) throw error;
    state.error = reason(error);
  }
  draw();
}

function draw() {
  fill("past", [state.history, state.error, state.says], () => [
    state.error ? el("p", { class: "error" }, state.error) : null,
    state.says ? el("p", { class: "note" }, state.says) : null,
    ...(state.history ? listed(state.history) : []),
  ]);
}

function listed({ file, offered, runs, more }) {
  if (!file && !offered) return [el("p", { class: "empty" }, "No history is kept. Start the program with --history FILE to keep one.")];
  if (!file) {
    return [
      el("p", { class: "quiet" }, "No history is kept. You can keep one on this device: for each run the sheet, the cloud, the fields that were sent, ",
        "the tags without their values, the reply and the offers. Only you can read the file. Delete it to stop."),
      el("button", { type: "button", class: "small", id: "keep-history" }, "Keep a history"),
      el("p", { class: "note" }, `It will be ${offered}.`)];
  }
  return [
    el("p", { class: "quiet" }, `Kept in ${file}, with tags instead of values. Delete the file to forget it all here.`),
    runs.length ? el("ul", { class: "runs" }, ...runs.map(run)) : el("p", { class: "empty" }, "There are no runs yet."),
    more ? el("p", { class: "note" }, `${more} older runs are in the file.`) : null];
}

function run({ run_id: id, began_at: at, title, lines, tags, forgettable }) {
  const known = Object.fromEntries(tags.map((tag) => [tag, ""]));
  return el("li", {}, el("details", {},
    el("summary", {}, el("time", { datetime: at }, new Date(at).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })), ` ${title}`),
    el("dl", { class: "kept" }, ...lines.map(([head, text]) => el("div", {},
      el("dt", {}, head), el("dd", {}, bounded(`${head} of this run`, { class: "words" }, ...marked(text, known)))))),
    forgettable ? el("button", { type: "button", class: "small", "data-forget": id }, "Have the provider forget this run") : null));
}

async function act(target, tell) {
  if (target.id === "keep-history") await call("POST", "/api/history", {});
  else if (target.dataset.forget) state.says = `Of the run: ${(await call("POST", "/api/forget", { run_id: target.dataset.forget })).says}.`;
  else return;
  await refreshHistory();
  tell(state.says || "A history is kept from now on.");
  byId("past-title").focus({ preventScroll: true }); // the button is gone
}

/** `tell` announces what was done to screen readers. */
export function wireHistory(tell) {
  byId("past").addEventListener("click", async ({ target }) => {
    try {
      await act(target, tell);
    } catch (error) {
      state.says = reason(error);
      draw();
      tell(state.says);
    }
  });
}
