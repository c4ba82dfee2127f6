// The last look: words that look personal and would leave as they are. One click or key hides any word of the person's.

import { fill, prompt } from "./panels.js";
import { call, Locked, reason } from "./program.js";
import { byId, count, el } from "./text.js";

const hidden = new Map(); // of each sheet: the words that become tags in its runs
const passed = new Map(); // of each sheet: the words that the person has let pass
let error = "";
let shown = null; // the sheet that the dialogue shows
let refocus = null; // where the focus goes once a word is hidden: {box, at}
let hooks = { refetch: async () => {}, tell: () => {}, changed: () => {}, lock: () => {} };

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
  error = "";
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
export function drawLook({ sheet, profile }) {
  const causes = [sheet, Boolean(profile), error];
  keeping("stays", () => fill("stays", causes, () => (sheet ? looks(sheet, profile, "stays") : [])));
  if (byId("look").open && sheet) {
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
      "Nothing has recognised them, and they would leave as they are. Hide those that identify somebody.")
      : el("p", { class: "note" }, "Nothing else in it looks personal. Read it all the same."),
    stays.length ? el("ul", { class: "stays" }, ...stays.map((each) => row(each, profile))) : null,
    words.length ? el("ul", { class: "stays" }, ...words.map((word) => el("li", {},
      el("span", { class: "word" }, word), el("span", { class: "quiet" }, "is hidden in this run"),
      el("button", { type: "button", class: "small", "data-undo": word, "aria-label": `Show ${word} again` }, "Undo")))) : null,
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
    profile ? el("button", { type: "button", class: "small", "data-always": text, "aria-label": `Always hide ${text}` }, "Always hide") : null);
}

async function hide(promptId, word) {
  hidden.set(promptId, [...hiddenIn(promptId), word]);
  await hooks.refetch();
  hooks.tell(`${word} becomes a tag.`);
}

async function act(sheet, { hide: pressed, undo, always, other }) {
  if (pressed) return hide(sheet.prompt_id, pressed);
  if (undo) {
    hidden.set(sheet.prompt_id, hiddenIn(sheet.prompt_id).filter((each) => each !== undo));
    return hooks.refetch();
  }
  if (always) {
    await call("POST", "/api/private_words", { words: [always] });
    await hooks.refetch();
    return hooks.tell(`${always} is in your profile now, and always becomes a tag.`);
  }
  const typed = byId(other).value.trim();
  const own = sheet.prompt.flatMap(({ pieces }) => pieces).filter(([, kinds]) => kinds.includes("own")).map(([text]) => text).join("");
  if (!typed) return undefined;
  const escaped = typed.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  if (!new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, "iu").test(own)) {
    error = `“${typed}” is not in your words of this prompt. Type it as it is written there.`;
    return undefined;
  }
  byId(other).value = "";
  return hide(sheet.prompt_id, typed);
}

/** Connects the buttons. `sheetNow` returns the sheet that is shown. */
export function wireLook(sheetNow, theHooks) {
  hooks = theHooks;
  for (const box of ["most", "stays", "look"]) {
    byId(box).addEventListener("click", ({ target }) => {
      const marked = target.closest("[data-hide], [data-undo], [data-always], [data-other]");
      if (!marked || !sheetNow() || !getSelection().isCollapsed) return; // a selection is no click on a word
      error = "";
      const at = [...byId(box).querySelectorAll("button[data-hide]")].indexOf(marked);
      refocus = null;
      act(sheetNow(), marked.dataset).then(() => {
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
