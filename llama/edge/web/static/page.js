// The page of the device's program: its state, the program's events, and the person's actions. Drawing is in panels.js
// and diagram.js, the dialogues are in dialogues.js, requests to the program are in program.js.

import { drawDiagram } from "./diagram.js";
import { askConsent, editProfile, wireEditor } from "./dialogues.js";
import { refreshHistory, wireHistory } from "./history.js";
import { drawLook, hiddenIn, isHiding, lookOnce, wireLook } from "./look.js";
import { drawProfile, drawReply, drawSaw, drawSystem, fill } from "./panels.js";
import { call, listen, Locked, reason, Refused } from "./program.js";
import { byId, count, el } from "./text.js";

const BACK_SHOWN_MS = 5000;
const SILENT_MS = 3000; // after this time without a step, the page says that it is waiting
const BUSY = ["asking", "prefill", "decoding"];
const OF_A_RUN = ["prefill", "iteration", "text", "done", "failed", "stopped"];

/** Everything that the page shows. */
const state = {
  cloud: null, model: null, sheets: [], profile: null, sanitise: "schema", run: null,
  promptId: "", // the sheet that is chosen here
  sheet: null, sheetError: "", // the sheet as it would be sent now
  declined: false, starting: false, stopping: false, startError: "",
  trouble: "", // why the program cannot tell its state
  lost: null, // {wait} while the program does not answer
  cloudBack: false,
};
const narrow = matchMedia("(max-width: 75.99rem)");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let seen = 0; // number of the last event that is in the state
let stale = false; // the state must be fetched again before events are usable

const busy = () => state.run !== null && BUSY.includes(state.run.phase);
/** The run, if it belongs to the sheet that is shown. After a "declined", an earlier run's reply is not shown. */
const shownRun = () => (busy() || (state.run?.prompt_id === state.promptId && !state.declined) ? state.run : null);

// --- Events of the program -------------------------------------------------------------------------------------------

/** Fetches the whole state again. */
async function refresh() {
  stale = true;
  const fresh = await stateOrTrouble();
  stale = false;
  seen = fresh.last_event;
  const { model, sheets, profile, sanitise } = fresh;
  onCloud(fresh.cloud);
  Object.assign(state, { model, sheets, profile, sanitise, run: withOurs(fresh.run) });
  if (busy()) state.promptId = state.run.prompt_id;
  else if (!sheets.some((sheet) => sheet.prompt_id === state.promptId)) {
    const first = [state.run?.prompt_id, fresh.prompt_id, sheets.length === 1 ? sheets[0].prompt_id : ""];
    state.promptId = first.find((id) => sheets.some((sheet) => sheet.prompt_id === id)) ?? "";
  }
  changed();
  guarded(fetchSheet); // not awaited: it takes long if the cloud is away, and the page must show events meanwhile
  guarded(refreshHistory);
}

/** Fetches the program's state. If the program cannot tell it (the profile's file is unusable), the page says so. */
async function stateOrTrouble() {
  try {
    const fresh = await call("GET", "/api/state");
    state.trouble = "";
    return fresh;
  } catch (error) {
    if (error instanceof Refused) {
      state.trouble = error.message;
      changed();
    }
    throw error;
  }
}

/** A snapshot of a run, with the fields that only this page keeps. */
function withOurs(run) {
  if (!run) return null;
  const before = state.run?.id === run.id ? state.run : { notices: [] };
  return { ...run, notices: before.notices, tokens: tokensOf(run.iteration), lastStep: performance.now() };
}

/** Number of tokens of the reply so far, without the one that ends it. */
const tokensOf = (iteration) => (!iteration ? 0 : iteration.index + (iteration.token_id !== null && !iteration.stop ? 1 : 0));

let sheetsAsked = 0;

/** Fetches the chosen sheet as it would be sent now. Returns why it cannot be sent, or "". */
async function fetchSheet() {
  const asked = ++sheetsAsked;
  let sheet = null;
  let sheetError = "";
  if (state.promptId) {
    try {
      sheet = await call("POST", "/api/sheet", { prompt_id: state.promptId, hidden: hiddenIn(state.promptId) });
    } catch (error) {
      if (error instanceof Locked) throw error;
      sheetError = reason(error);
    }
  }
  if (asked !== sheetsAsked) return ""; // it was asked for again meanwhile
  Object.assign(state, { sheet, sheetError });
  changed();
  return sheetError;
}

/** Handles one event; the next one waits until it is done. */
async function onEvent(event) {
  if (event.n !== undefined && event.n <= seen) return; // the state already includes it
  seen = event.n ?? seen;
  const { run } = state;
  if (!run && OF_A_RUN.includes(event.type)) return refresh(); // this page missed the run's beginning
  switch (event.type) {
    case "reset":
      await refresh();
      break;
    case "sheets":
    case "profile":
      await refresh();
      break;
    case "history":
      guarded(refreshHistory);
      break;
    case "cloud":
      onCloud(event.cloud);
      break;
    case "begun":
      Object.assign(state, { run: withOurs(event.run), declined: false, stopping: false, startError: "" });
      if (state.promptId !== event.run.prompt_id) { // started in another tab
        Object.assign(state, { promptId: event.run.prompt_id, sheet: null, sheetError: "" });
        guarded(fetchSheet);
      }
      tell("Started.");
      if (narrow.matches) byId("reply-title").scrollIntoView(); // the reply will appear there
      break;
    case "notice":
      if (run) run.notices = [...run.notices, event.text].slice(-50);
      tell(event.text);
      break;
    case "prefill":
      if (run.phase !== "prefill") tell("The cloud is reading the prompt.");
      Object.assign(run, { phase: "prefill", prefill: { done: event.done, of: event.of }, lastStep: performance.now() });
      break;
    case "iteration":
      if (event.token_id !== null) {
        if (run.phase !== "decoding") tell("The reply is being written.");
        run.phase = "decoding";
      }
      Object.assign(run, { iteration: event, tokens: tokensOf(event), lastStep: performance.now() });
      break;
    case "text":
      run.text += event.text;
      break;
    case "done":
      Object.assign(run, { phase: "done", done: event.reply });
      tell(`Done: ${count(run.tokens, "token")}, ${count(event.reply.offers.length, "offer")}.`);
      break;
    case "failed":
      Object.assign(run, { phase: "failed", error: event.error });
      tell(`The run failed. ${event.error}`);
      break;
    case "stopped":
      run.phase = "stopped";
      tell("Stopped.");
      break;
  }
  changed();
}

let backTimer;

function onCloud(cloud) {
  if (cloud.state !== state.cloud?.state) tell(ANNOUNCED[cloud.state] ?? "");
  const wasAway = state.cloud && (state.cloud.state === "away" || state.cloud.state === "wrong");
  state.cloud = cloud;
  clearTimeout(backTimer);
  state.cloudBack = cloud.state === "here" && (wasAway || state.cloudBack);
  if (state.cloudBack) {
    backTimer = setTimeout(() => {
      state.cloudBack = false;
      changed();
    }, BACK_SHOWN_MS);
  }
}

/** Announces an event to screen readers; not every token, and not every second of waiting. */
function tell(text) {
  byId("said").textContent = text;
}

// --- Actions of the person -------------------------------------------------------------------------------------------

async function choose() {
  Object.assign(state, { promptId: byId("sheets").value, declined: false, startError: "", sheet: null, sheetError: "" });
  changed();
  await guarded(fetchSheet);
}

async function start() {
  if (state.starting || busy() || !state.sheet || isHiding()) return;
  Object.assign(state, { starting: true, declined: false, startError: "" });
  changed();
  try {
    await askAndRun(state.sheet);
  } catch (error) {
    if (error instanceof Locked) return lock(error);
    state.startError = reason(error);
    tell(state.startError);
    if (error.status === 409) await guarded(refresh); // the page shows an old state
  } finally {
    state.starting = false;
    changed();
  }
}

/** Asks for a last look and for consent. The person agrees to what the dialogues show, even if the state changes meanwhile. */
async function askAndRun(asked) {
  const sheet = await lookOnce(asked);
  if (sheet && !sheet.consent.needed) return run(false, sheet);
  if (sheet && (await askConsent(sheet))) return run(true, sheet);
  state.declined = true;
  tell("You declined. Nothing was sent.");
}

async function run(agree, sheet) {
  try {
    await call("POST", "/api/run", { prompt_id: sheet.prompt_id, seen: sheet.seen, agree });
    await fetchSheet(); // the next run need not ask for this consent again
  } catch (error) {
    if (!error.body?.consent_needed || agree) throw error;
    await fetchSheet(); // the sheet asks for more fields than before
    if (state.sheet) await askAndRun(state.sheet);
  }
}

async function stop() {
  state.stopping = true;
  changed();
  await guarded(() => call("POST", "/api/stop", { run: state.run.id }));
}

async function guarded(action) {
  try {
    await action();
  } catch (error) {
    if (error instanceof Locked) return lock(error);
    state.startError = reason(error);
    changed();
  }
}

function lock(error) {
  byId("all").hidden = true;
  byId("cloud").hidden = true;
  byId("locked").hidden = false;
  byId("locked-why").textContent = sentence(error.message) || "The program does not accept this address.";
  for (const dialogue of document.querySelectorAll("dialog[open]")) dialogue.close();
}

// --- Drawing ---------------------------------------------------------------------------------------------------------

let asked = false;

/** Draws once at the next frame, even after several calls. */
function changed() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(draw);
}

function draw() {
  asked = false;
  const view = { ...state, run: shownRun() };
  drawTop(view);
  drawControls(view);
  drawBanners(view);
  drawSystem(view);
  drawProfile(view);
  drawReply(view);
  drawSaw(view);
  drawLook(view);
  if (drawDiagram(view)) changed(); // draw later: a person cannot read faster
  else drawStatus(view);
}

const ANNOUNCED = { away: "The cloud is away.", wrong: "This is not the right cloud.", here: "The cloud is connected." };
const CLOUD = {
  connecting: "looking for the cloud", here: "the cloud is connected", away: "the cloud is away", wrong: "not the right cloud",
};

function drawTop({ cloud, model }) {
  fill("model", [model?.n_layers, model?.split_layer], () => (model
    ? `${count(model.n_layers, "layer")}: ${model.split_layer} on this device, ${model.n_layers - model.split_layer} in the cloud` : ""));
  byId("cloud").hidden = !cloud;
  if (!cloud) return;
  byId("cloud").dataset.state = cloud.state;
  fill("cloud", [cloud.state, cloud.address], () => [
    el("i", { class: "dot", "aria-hidden": "true" }), el("span", {}, CLOUD[cloud.state] ?? cloud.state),
    el("span", { class: "address" }, cloud.address)]);
}

function drawControls(view) {
  const { sheets, promptId, starting, stopping, sheet, profile, lost, cloud, trouble } = view;
  fill("sheets", [sheets], () => sheetOptions(sheets));
  if (byId("sheets").value !== promptId) byId("sheets").value = promptId;
  byId("sheets").disabled = busy() || starting || !sheets.length;
  byId("edit").disabled = (!profile && !trouble) || (Boolean(lost) && !trouble);
  byId("start").disabled = !sheet || starting || isHiding() || Boolean(lost) || cloud?.state === "wrong";
  byId("stop").disabled = Boolean(lost) || stopping;
  swap(byId("start"), byId("stop"), busy());
}

function drawStatus(view) {
  const { run: shown } = view;
  byId("status").textContent = status(view);
  byId("status").dataset.phase = view.startError ? "failed" : shown?.phase ?? "";
  const progress = byId("progress");
  progress.hidden = !busy() || shown.phase === "decoding";
  if (shown?.prefill && shown.phase === "prefill") {
    progress.max = shown.prefill.of;
    progress.value = shown.prefill.done;
  } else progress.removeAttribute("value");
}

function goTo(heading) {
  heading.focus({ preventScroll: true });
  heading.scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
}

let focusOwedTo = null;

/** Shows one of two buttons. The focus follows as soon as the shown button is enabled. */
function swap(first, second, showSecond) {
  const [shown, hidden] = showSecond ? [second, first] : [first, second];
  const nowhere = document.activeElement === hidden || document.activeElement === document.body;
  if (shown.hidden || !hidden.hidden) {
    focusOwedTo = nowhere && document.querySelector("dialog[open]") === null ? shown : null;
    shown.hidden = false;
    hidden.hidden = true;
  }
  if (focusOwedTo !== shown || shown.disabled || document.querySelector("dialog[open]") !== null) return;
  focusOwedTo = null;
  if (nowhere) shown.focus({ preventScroll: true }); // unless the person has focused something else meanwhile
}

function sheetOptions(sheets) {
  const first = el("option", { value: "" }, sheets.length ? "Choose a sheet …" : "No sheets yet");
  const parties = [...new Set(sheets.map(({ party }) => party))].sort();
  return [first, ...parties.map((party) => el("optgroup", { label: party ? `From the third party ${party}` : "From the provider" },
    ...sheets.filter((sheet) => sheet.party === party).map(({ prompt_id, title }) => el("option", { value: prompt_id }, title || prompt_id))))];
}

function status({ run, sheet, sheetError, promptId, starting, stopping, startError, declined, lost, trouble, sheets, cloud }) {
  if (lost) return trouble ? "The program cannot continue. See the reason below." : "The program does not answer.";
  if (run && BUSY.includes(run.phase)) return stopping ? "Stopping …" : `${step(run)}${silence(run)}`;
  if (startError) return startError;
  if (declined) return "You declined. Nothing was sent.";
  if (starting) return "Waiting for your answer. Nothing has been sent.";
  if (!promptId && !sheets.length) return cloud?.state === "here" ? "The provider has no sheets." : "Waiting for the cloud to list its sheets.";
  if (!promptId) return "Choose a prompt sheet to begin.";
  if (sheetError) return "This sheet cannot run.";
  if (!sheet) return "Fetching the sheet and preparing it on your device …";
  const asks = sheet.stays.length ? ` ${count(sheet.stays.length, "word")} may be personal; Start asks about them.` : "";
  if (run?.phase === "done") return `Done: ${count(run.tokens, "token")}${speed(run)}.${asks}`;
  if (run?.phase === "failed") return `The run failed. See the reason below.${asks}`;
  if (run?.phase === "stopped") return `Stopped after ${count(run.tokens, "token")}.${asks}`;
  if (cloud?.state === "wrong") return "This cloud has the half of another model split.";
  return `Ready. Nothing has been sent.${asks}`;
}

function step({ phase, prefill, tokens, iteration, text }) {
  if (phase === "asking") return "Started. The cloud reads the prompt first …";
  if (phase === "prefill") return `The cloud is reading the prompt${text ? " again" : ""}: ${prefill.done} of ${prefill.of} tokens`;
  return `The reply is being written: ${count(tokens, "token")}${speed({ iteration })}`;
}

const speed = ({ iteration }) => (iteration?.tokens_per_s ? `, ${iteration.tokens_per_s.toFixed(1)} a second` : "");

/** The time without news, in words, so that the page never spins for ever. */
function silence({ lastStep }) {
  const ms = performance.now() - lastStep;
  return ms < SILENT_MS ? "" : `; nothing new for ${Math.floor(ms / 1000)} s`;
}

function drawBanners({ cloud, run, lost, cloudBack, sanitise, trouble }) {
  const running = run && BUSY.includes(run.phase);
  const state = cloud?.state;
  fill("banners", [lost?.wait, state, cloud?.says, cloudBack, running, sanitise, trouble], () => [
    trouble && banner("bad", "The program cannot continue.", `${sentence(trouble)} If the profile is the problem, correct it with Edit profile.`),
    lost && !trouble && banner("bad", "Connection to the program lost.",
      lost.wait ? `It may have ended. If so, start it again and open the address that it prints. Next attempt within ${lost.wait} s.` : "Trying again now …",
      el("button", { type: "button", id: "try-now" }, "Try now")),
    !lost && state === "connecting" && banner("info", "Looking for the cloud.", cloud.address),
    !lost && state === "away" && banner("warn", "The cloud is away.",
      `${running ? "Your device keeps trying. The run continues when the cloud is back." : "Your device keeps trying."} ${sentence(cloud.says)}`),
    !lost && state === "wrong" && banner("bad", "This is not the right cloud.", sentence(cloud.says)),
    !lost && cloudBack && banner("good", "The cloud is back.", running ? "The run continues." : ""),
    sanitise === "off" && banner("bad", "Sanitising is off.", "The fields that the sheet asks for leave as you wrote them, including secrets."),
  ]);
}

const sentence = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?…]$/.test(text) ? "" : "."}` : "");

function banner(kind, title, text, ...more) {
  return el("div", { class: "banner", "data-kind": kind }, el("p", {}, el("strong", {}, title), text ? ` ${text}` : ""), ...more);
}

// --- Start of the page -----------------------------------------------------------------------------------------------

let wake = () => {};

function wire() {
  byId("sheets").addEventListener("change", choose);
  byId("edit").addEventListener("click", () => editProfile());
  byId("reply").addEventListener("click", ({ target }) => target.id === "to-saw" && goTo(byId("saw-title")));
  byId("start").addEventListener("click", start);
  byId("stop").addEventListener("click", stop);
  byId("banners").addEventListener("click", ({ target }) => target.id === "try-now" && wake());
  wireEditor();
  wireHistory(tell);
  wireLook(() => state.sheet, { refetch: fetchSheet, tell, changed, lock });
  setInterval(() => busy() && changed(), 1000); // updates the time without news
}

async function main() {
  wire();
  try {
    await firstState();
    byId("all").hidden = false;
    changed();
    await listen({
      after: async () => {
        if (stale) await refresh();
        return seen;
      },
      onEvent,
      onFound: () => {
        state.lost = null;
        changed();
      },
      onLost: (wait) => {
        if (!state.lost) tell("Connection to the program lost.");
        state.lost = { wait };
        changed();
      },
      until: pause,
    });
  } catch (error) {
    lock(error);
    if (!(error instanceof Locked)) throw error;
  }
}

/** Fetches the first state. The program may still be starting, so it tries again. */
async function firstState() {
  for (let wait = 1; ; wait = Math.min(10, 2 * wait)) {
    try {
      return await refresh();
    } catch (error) {
      if (error instanceof Locked) throw error;
      byId("all").hidden = false;
      state.lost = { wait };
      changed();
      await pause(wait);
    }
  }
}

function pause(seconds) {
  return new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, 1000 * seconds);
  });
}

main();
