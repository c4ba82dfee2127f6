// The last look: words that look personal and would leave as they are. One click or key hides any word of the person's.

import { fill, prompt } from "./panels.js";
import { call, Locked, reason } from "./program.js";
import { byId, count, el } from "./text.js";

const hidden = new Map(); // of each sheet: the words that become tags in its runs
const passed = new Map(); // of each sheet: the words that the person has let pass
let error = "";
let typed = ""; // the word that was typed, while there is an error about it
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
  error = typed = "";
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
  fill("stays", [sheet, Boolean(profile), error], () => (sheet ? looks(sheet, profile, "stays") : []));
  if (byId("look").open && sheet) {
    shown = sheet;
    fill("look-body", [sheet, Boolean(profile), error], () => [
      ...looks(sheet, profile, "look"),
      el("details", {}, el("summary", {}, "The prompt as it would leave"), prompt(sheet, { buttons: false }))]);
    byId("look-send").textContent = sheet.stays.length ? "Send as it is" : "Send";
  }
  if (refocus) {
    const buttons = byId(refocus.box).querySelectorAll("button[data-hide]");
    (buttons[Math.min(refocus.at, buttons.length - 1)] ?? byId(`${refocus.box}-word`) ?? byId("stays-word"))?.focus({ preventScroll: true });
    refocus = null;
  }
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
      el("input", { id: `${box}-word`, type: "text", maxlength: 200, autocomplete: "off", spellcheck: "false", value: error ? typed : null }),
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
  typed = byId(other).value.trim();
  const own = sheet.prompt.flatMap(({ pieces }) => pieces).filter(([, kinds]) => kinds.includes("own")).map(([text]) => text).join("");
  if (!typed) return undefined;
  const escaped = typed.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  if (!new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, "iu").test(own)) {
    error = `“${typed}” is not in your words of this prompt. Type it as it is written there.`;
    return undefined;
  }
  const word = typed;
  typed = "";
  return hide(sheet.prompt_id, word);
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
