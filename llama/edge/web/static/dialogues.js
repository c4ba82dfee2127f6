// The two dialogues: the person's agreement, and the profile's text.

import { prompt } from "./panels.js";
import { call, reason } from "./program.js";
import { bounded, byId, el, marked } from "./text.js";

/** Asks the person to agree to the sheet's fields. Returns true if they agree. Escape declines. */
export function askConsent(sheet) {
  const dialogue = byId("consent");
  const { question, fields, notes } = sheet.consent;
  const asked = sheet.fields.filter(({ outcome }) => outcome !== "kept"); // the fields of the question, in the same order
  byId("consent-body").replaceChildren(
    el("p", {}, question),
    el("dl", { class: "forms" }, ...fields.map(({ name, form }, i) => el("div", {},
      el("dt", {}, asked[i]?.label ?? name),
      el("dd", {}, form, asked[i]?.sent_as ? bounded(`${name}, sent as`, { class: "leaves" }, "→ ", ...marked(asked[i].sent_as, sheet.tags)) : null)))),
    el("details", {}, el("summary", {}, "The prompt as it would leave"), prompt(sheet, { buttons: false })));
  byId("consent-notes").replaceChildren(...[...notes, ...(sheet.cautions ?? [])].map((note) => el("li", {}, note))); // outside the part that scrolls
  byId("consent-body").scrollTop = 0;
  dialogue.returnValue = "";
  dialogue.showModal();
  return new Promise((answer) => {
    dialogue.addEventListener("close", () => answer(dialogue.returnValue === "agree"), { once: true });
  });
}

const editor = { version: null, saved: "", warned: false };

/** Opens the profile's text. */
export async function editProfile() {
  byId("editor").showModal();
  await load();
}

async function load() {
  const text = byId("editor-text");
  complain("");
  byId("editor-again").hidden = true;
  text.disabled = byId("editor-save").disabled = true;
  try {
    const answer = await call("GET", "/api/profile");
    Object.assign(editor, { version: answer.version, saved: answer.text, warned: false });
    text.value = answer.text;
    editor.saved = text.value; // the text area changes line ends
    text.disabled = byId("editor-save").disabled = false;
    text.setSelectionRange(0, 0);
    text.focus();
    text.scrollTop = 0;
  } catch (error) {
    complain(reason(error));
  }
}

async function save() {
  complain("");
  byId("editor-save").disabled = true;
  try {
    await call("PUT", "/api/profile", { text: byId("editor-text").value, version: editor.version });
    byId("editor").close();
  } catch (error) {
    complain(reason(error));
    byId("editor-again").hidden = error.status !== 409;
    showPlace(reason(error));
  } finally {
    byId("editor-save").disabled = false;
  }
}

/** Puts the cursor at the place that an error names. */
function showPlace(said) {
  const text = byId("editor-text");
  const [, line, column] = said.match(/at line (\d+), column (\d+)/) ?? [];
  if (line) {
    const before = text.value.split("\n").slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    const place = Math.min(before + Number(column) - 1, text.value.length);
    text.setSelectionRange(before, place);
  }
  text.focus();
}

/** Closes the dialogue. With unsaved changes, it warns first and closes at the second call. */
function leave(event) {
  const unsaved = byId("editor-text").value !== editor.saved && !byId("editor-text").disabled;
  if (unsaved && !editor.warned) {
    event.preventDefault();
    editor.warned = true;
    complain("Your changes are not saved. Save them, or cancel again to discard them.");
  } else if (event.type === "click") {
    byId("editor").close();
  }
}

function complain(text) {
  byId("editor-error").textContent = text;
  byId("editor-text").setAttribute("aria-invalid", String(Boolean(text)));
}

export function wireEditor() {
  byId("editor-save").addEventListener("click", save);
  byId("editor-again").addEventListener("click", load);
  byId("editor-cancel").addEventListener("click", leave);
  byId("editor").addEventListener("cancel", leave);
  byId("editor-text").addEventListener("input", () => (editor.warned = false));
  byId("editor").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
}
