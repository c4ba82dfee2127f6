// The last look: words that look personal and would leave as they are. One click or key hides any word of the person's.

import { fill, prompt } from "./panels.js";
import { call, Locked, reason } from "./program.js";
import { byId, count, el } from "./text.js";

const hidden = new Map(); // of each sheet: the words that become tags in its runs
const passed = new Map(); // of each sheet: the words that the person has let pass
let error = "";
let says = ""; // what came of the last button
let shown = null; // the sheet that the dialogue shows
let refocus = null; // where the focus goes once a word is hidden: {box, at}
let hooks = { refetch: async () => "", tell: () => {}, changed: () => {}, lock: () => {} };

let actions = 0; // that are under way

/** Whether the prompt is being prepared anew, so that the one shown must not be sent. */
export const isHiding = () => actions > 0;

/** The words that become tags in the next run of a sheet. */
export const hiddenIn = (promptId) => hidden.get(promptId) ?? [];

/** The words that look personal, and that the person has not let pass in an earlier look. */
const open = (sheet) => sheet.stays.filter(({ text }) => !passed.get(sheet.prompt_id)?.has(text));

/**
 * Asks the person to look at words that look personal, if there are any. Returns the sheet that may be sent, as they saw
 * it last, or null.
 */
export async function lookOnce(sheet) {
  if (!open(sheet).length) return sheet;
  const dialogue = byId("look");
  error = says = "";
  shown = sheet;
  dialogue.returnValue = "";
  hooks.changed();
  dialogue.showModal();
  byId("look-title").focus();
  await new Promise((closed) => {
    dialogue.addEventListener("close", closed, { once: true });
  });
  if (dialogue.returnValue !== "send") return null;
  const before = passed.get(shown.prompt_id) ?? [];
  passed.set(shown.prompt_id, new Set([...before, ...shown.stays.map(({ text }) => text)]));
  return shown;
}

/** Draws the list under the prompt, and the dialogue if it is open. */
export function drawLook({ sheet, sheetError, promptId, profile }) {
  const causes = [sheet, Boolean(profile), error, says];
  keeping("stays", () => fill("stays", causes, () => (sheet ? looks(sheet, profile, "stays") : [])));
  const dialogue = byId("look");
  if (dialogue.open && promptId !== shown.prompt_id) dialogue.close("cancel"); // another sheet was chosen in another tab
  byId("look-send").disabled = !sheet || isHiding();
  if (dialogue.open && sheetError) fill("look-body", [sheetError], () => el("p", { class: "error", role: "alert" }, sheetError));
  if (dialogue.open && sheet) {
    shown = sheet;
    keeping("look", () => fill("look-body", causes, () => [
      ...looks(sheet, profile, "look"),
      el("details", { open: true }, el("summary", {}, "The prompt as it would leave"), prompt(sheet, { buttons: false }))]));
    byId("look-send").textContent = sheet.stays.length ? "Send as it is" : "Send";
  }
  if (refocus) {
    focusIn(refocus.box, refocus.at);
    refocus = null;
  }
}

/** Focuses the button that hides a word of a box, by its index, or where there is none the box for another word. */
function focusIn(box, at) {
  const buttons = byId(box).querySelectorAll("button[data-hide]");
  (buttons[Math.min(at, buttons.length - 1)] ?? byId(`${box}-word`) ?? byId("stays-word"))?.focus({ preventScroll: true });
}

/** Draws a box, and keeps the word that is being typed there, and the focus. */
function keeping(box, draw) {
  const text = byId(`${box}-word`)?.value ?? "";
  const focused = byId(box).contains(document.activeElement) ? document.activeElement : null;
  draw();
  const input = byId(`${box}-word`);
  if (input && !input.value) input.value = text;
  if (!focused || focused.isConnected) return;
  const same = (each) => each.id === focused.id && ["hide", "always", "undo", "other"].every((key) => each.dataset[key] === focused.dataset[key]);
  const again = [...byId(box).querySelectorAll("button, input")].find(same);
  if (again) again.focus({ preventScroll: true });
  else focusIn(box, 0);
}

function looks(sheet, profile, box) {
  const { stays, hidden: words } = sheet;
  return [
    stays.length ? el("p", {}, el("strong", {}, `${count(stays.length, "word")} may be personal. `),
      "Nothing has recognised what is listed here, and it would leave as it is. Hide what identifies somebody.")
      : el("p", { class: "note" }, "Nothing else in it looks personal. Read it all the same."),
    stays.length ? el("ul", { class: "stays" }, ...stays.map((each) => row(each, profile))) : null,
    words.length ? el("ul", { class: "stays" }, ...words.map((word) => el("li", {},
      el("span", { class: "word" }, word), el("span", { class: "quiet" }, "is hidden in this run"),
      el("button", { type: "button", class: "small", "data-undo": word, "aria-label": `Show ${word} again` }, "Undo"),
      always(word, profile)))) : null,
    says ? el("p", { class: "note" }, says) : null,
    el("p", { class: "other" },
      el("label", { for: `${box}-word` }, "Hide another word: "),
      el("input", { id: `${box}-word`, type: "text", maxlength: 200, autocomplete: "off", spellcheck: "false" }),
      el("button", { type: "button", class: "small", "data-other": `${box}-word` }, "Hide")),
    error ? el("p", { class: "error", role: "alert" }, error) : null,
  ].filter(Boolean);
}

function row({ text, reason: why, count: times }, profile) {
  return el("li", {},
    el("span", { class: "word" }, text),
    el("span", { class: "quiet" }, times > 1 ? `${why}, ${times} times` : why),
    el("button", { type: "button", class: "small", "data-hide": text, "aria-label": `Hide ${text} in this run` }, "Hide"),
    always(text, profile));
}

const always = (word, profile) => (profile
  ? el("button", { type: "button", class: "small", "data-always": word, "aria-label": `Always hide ${word}` }, "Always hide") : null);

/** The person's own words of a prompt, with a line end where they are interrupted. */
const ownWords = (sheet) => sheet.prompt.map(({ pieces }) =>
  pieces.map(([text, kinds]) => (kinds.includes("own") && !kinds.includes("tag") ? text : "\n")).join("")).join("\n");

/** A word, or several, as a text writes it: in the same case if that occurs, otherwise in another, or "". */
function writtenIn(text, word) {
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const pattern = `(?<![\\p{L}\\p{M}\\p{N}])${escaped}(?![\\p{L}\\p{M}\\p{N}])`;
  return (text.match(new RegExp(pattern, "u")) ?? text.match(new RegExp(pattern, "iu")) ?? [""])[0];
}

function said(text) {
  says = text;
  hooks.tell(text);
}

/** Makes these words the hidden ones, and fetches the prompt again. If that fails, they stay as they were. */
async function setHidden(promptId, words) {
  const before = hiddenIn(promptId);
  hidden.set(promptId, words);
  const problem = await hooks.refetch();
  if (!problem) return true;
  hidden.set(promptId, before);
  error = `The prompt cannot be prepared this way: ${problem}`;
  await hooks.refetch();
  return false;
}

async function hide(promptId, word) {
  if (await setHidden(promptId, [...hiddenIn(promptId), word])) said(`“${word}” is hidden in this run.`);
}

async function act(sheet, { hide: pressed, undo, always: kept, other }) {
  const { prompt_id } = sheet;
  if (pressed) return hide(prompt_id, pressed);
  if (undo || kept) {
    if (kept) await call("POST", "/api/private_words", { words: [kept] });
    const isDone = await setHidden(prompt_id, hiddenIn(prompt_id).filter((each) => each !== (undo ?? kept)));
    if (!isDone) return undefined;
    return said(kept ? `“${kept}” is hidden from now on: it is in private_words of your profile.` : `“${undo}” is shown again.`);
  }
  const input = byId(other);
  const typed = input.value.trim().replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{M}\p{N}]+$/gu, "") || input.value.trim();
  if (!typed) return undefined;
  const word = writtenIn(ownWords(sheet), typed);
  if (!word) {
    const isTag = Object.values(sheet.tags).some((value) => writtenIn(value, typed));
    error = isTag ? `“${typed}” is hidden already.` : `“${typed}” is not in your words of this prompt. Type it as it is written there.`;
    return undefined;
  }
  input.value = "";
  return hide(prompt_id, word);
}

/** Connects the buttons. `sheetNow` returns the sheet that is shown. */
export function wireLook(sheetNow, theHooks) {
  hooks = theHooks;
  for (const box of ["most", "stays", "look"]) {
    byId(box).addEventListener("click", ({ target }) => {
      const marked = target.closest("[data-hide], [data-undo], [data-always], [data-other]");
      if (!marked || !sheetNow() || !getSelection().isCollapsed) return; // a selection is no click on a word
      error = says = "";
      const at = [...byId(box).querySelectorAll("button[data-hide]")].indexOf(marked);
      refocus = null;
      actions += 1;
      hooks.changed();
      act(sheetNow(), marked.dataset).finally(() => {
        actions -= 1;
      }).then(() => {
        if (at >= 0 || !error) refocus = { box, at: Math.max(0, at) };
        else refocus = { box, at: -1 };
        hooks.changed();
      }, (failed) => {
        if (failed instanceof Locked) return hooks.lock(failed);
        error = reason(failed);
        hooks.changed();
      });
    });
    byId(box).addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.target.tagName !== "INPUT") return;
      event.preventDefault(); // or the dialogue would close
      event.target.closest(".other").querySelector("button").click();
    });
  }
}
