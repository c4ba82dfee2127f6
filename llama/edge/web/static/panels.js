// The left panel (system prompt, profile, recommendations) and the third view (who saw what).

import { bounded, byId, count, el, marked, rupiah } from "./text.js";

const OUTCOMES = {
  sent: ["sent", "to be sent", "as you wrote it, with tags for the secrets that are recognised in it"],
  generalised: ["generalised", "to be generalised", "made coarser"],
  tag: ["tag", "to be a tag", "the value stays here"],
  kept: ["kept", "kept", "not asked for"],
  missing: ["missing", "missing", "asked for, but not in your profile"],
};
const ONE_LINE = 34; // characters of a value and of the text that is sent for it
const POLICIES = { secret: "only as a tag", quasi: "only coarser", open: "as you wrote it" };
const REPLIES = { recommend: "Recommendations", answer: "Answer", extract: "What the text mentions" };
const PARTIES = [["customer", "You"], ["provider", "The provider"], ["third party", "The third party"]];

// --- Drawing only the parts that changed -----------------------------------------------------------------------------

const drawn = new Map();

/** Fills `id` with the result of `make`, unless `causes` have not changed since the last time. */
export function fill(id, causes, make) {
  const before = drawn.get(id);
  if (before && before.length === causes.length && before.every((cause, i) => cause === causes[i])) return;
  drawn.set(id, causes);
  byId(id).replaceChildren(...[make()].flat().filter(Boolean));
}

const empty = (text) => el("p", { class: "empty" }, text);
const problem = (title, text) => el("div", { class: "problem" }, el("p", {}, el("strong", {}, title)), el("p", {}, text));

// --- 1: the system prompt --------------------------------------------------------------------------------------------

export function drawSystem({ sheet, sheetError }) {
  fill("whose", [sheet?.whose], () => (sheet ? `from ${sheet.whose}` : ""));
  fill("system", [sheet, sheetError], () => {
    if (sheetError) return problem("This sheet cannot be prepared, so nothing is sent.", sheetError);
    if (!sheet) return empty("Choose a prompt sheet above. Its instructions to the model appear here.");
    const parts = sheet.system_prompt;
    if (!parts.length) return empty("This sheet has no system prompt.");
    return parts.flatMap(({ whose, text }) => [
      parts.length > 1 ? el("h4", {}, `From ${whose}`) : null,
      bounded(`The system prompt of ${whose}`, { class: "words short" }, text)]);
  });
}

// --- 2: the profile --------------------------------------------------------------------------------------------------

export function drawProfile({ sheet, profile, run }) {
  const isOfThisRun = Boolean(run && sheet && run.seen === sheet.seen); // else the sheet is shown as the next run sends it
  fill("profile", [sheet, profile, isOfThisRun], () => {
    if (!profile) return empty("The program has no profile. Start it with --profile_file to give yours.");
    if (sheet) return asked(sheet, isOfThisRun);
    return profile.fields.length ? unasked(profile) : empty("Your profile has no fields yet. Add them with Edit profile.");
  });
}

/** The outcome of each field in a run of this sheet: the outcome to expect, or the outcome of the run. */
function asked({ fields, tags }, begun) {
  const parts = [];
  const wanted = fields.filter(({ outcome }) => outcome !== "kept");
  const kept = fields.filter(({ outcome }) => outcome === "kept");
  if (wanted.length) parts.push(el("ul", { class: "fields" }, ...wanted.map((field) => fieldRow(field, tags, begun))));
  else parts.push(empty("This sheet asks for no field of your profile."));
  if (kept.length) {
    parts.push(el("details", {},
      el("summary", {}, el("span", { class: "outcome", "data-outcome": "kept" }, "kept"),
        ` ${count(kept.length, "field")} that the sheet does not ask for`),
      el("dl", { class: "kept" }, ...kept.map(({ label, value }) =>
        el("div", {}, el("dt", {}, label), el("dd", {}, bounded(label, { class: "value" }, value)))))));
  }
  return parts;
}

function fieldRow({ label, value, outcome, sent_as }, tags, begun) {
  const [did, would, meaning] = OUTCOMES[outcome] ?? [outcome, outcome, ""];
  const word = begun ? did : would;
  const row = el("li", { class: "field" },
    el("span", { class: "label" }, label),
    el("span", { class: "outcome", "data-outcome": outcome, title: meaning }, word));
  if (outcome === "missing") {
    row.append(el("div", { class: "change quiet" }, meaning));
  } else {
    const brief = value.length + sent_as.length <= ONE_LINE;
    const leaves = el("span", { class: "becomes" }, el("span", { class: "arrow", "aria-hidden": "true" }, "→"),
      el("span", { class: "unseen" }, " is sent as: "), ...marked(sent_as, tags));
    row.append(bounded(`${label}: value, and what is sent`, { class: brief ? "change brief" : "change" },
      sent_as === value ? null : el("span", { class: "value" }, value), leaves));
  }
  return row;
}

/** The form in which each field could leave; shown before a sheet is chosen. */
function unasked({ file, fields }) {
  return [
    el("p", { class: "quiet" }, `${file}: ${count(fields.length, "field")}. Only the fields that a sheet asks for leave, in this form:`),
    bounded("The fields of your profile", { class: "all-fields" },
      el("dl", { class: "kept" }, ...fields.map(({ label, policy, value }) => el("div", {},
        el("dt", {}, label), el("dd", {}, value), el("dd", { class: "policy" }, POLICIES[policy] ?? policy))))),
  ];
}

// --- 3: the reply and the offers -------------------------------------------------------------------------------------

export function drawReply({ sheet, run, declined }) {
  const task = sheet?.task ?? "recommend";
  fill("reply-name", [task], () => el("span", {}, REPLIES[task] ?? "Reply"));
  const shape = run ? "run" : declined ? "declined" : sheet ? "ready" : "nothing";
  fill("reply", [shape], () => {
    if (shape === "run") return replySkeleton();
    if (shape === "declined") return el("p", { class: "declined" }, "You declined. Nothing was sent.");
    if (shape === "ready") return empty("Press Start to run this sheet. The reply appears here, word by word.");
    return empty("The reply appears here.");
  });
  if (!run) return;
  writeOn(byId("reply-text"), run.done ? run.done.text : run.text);
  fill("reply-after", [run.phase, run.error, run.done, run.notices], () => afterReply(run, task));
}

function replySkeleton() {
  drawn.delete("reply-after"); // the part after the reply is a new element
  return [
    el("div", { class: "words reply-text bounded", id: "reply-text", role: "group", "aria-label": "The reply", tabindex: 0 }),
    el("div", { id: "reply-after" }),
  ];
}

/** Appends only the new text to the text node, so that a selection in the reply survives the next word. */
function writeOn(box, text) {
  if (!box.firstChild) box.append("");
  const node = box.firstChild;
  if (node.data === text) return;
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 8;
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
  if (atEnd) box.scrollTop = box.scrollHeight;
}

function afterReply(run, task) {
  const { done } = run;
  const parts = [];
  if (run.phase === "failed") parts.push(problem("The run failed.", run.error ?? ""));
  if (run.phase === "stopped") parts.push(el("p", { class: "declined" }, "You stopped the run. The reply so far is above."));
  if (done) {
    if (!done.text) parts.push(empty("The model gave an empty reply."));
    if (done.ending) parts.push(el("p", { class: "note" }, done.ending));
    if (done.tags_left) {
      parts.push(el("p", { class: "note" }, `${count(done.tags_left, "tag")} in the reply could not be replaced safely.`));
    }
    if (done.offers.length) {
      parts.push(el("h4", {}, "Offers that match"), ...ideas(done.offers).flatMap(([idea, offers]) => [
        idea ? el("h5", {}, `For “${idea}”`) : null, el("ul", { class: "offers" }, ...offers.map(offer))]),
        el("p", { class: "note" }, "Links are shown as text. If you open one, the shop learns that you came."));
    }
    if (!done.offers.length && task === "recommend") parts.push(empty("There are no offers: the provider has no product that fits, or no catalogue."));
    if (done.copy_says) parts.push(el("p", { class: "note" }, done.copy_says));
    parts.push(el("details", { class: "timing" }, el("summary", {}, "Counts and times"), el("p", { class: "note" }, done.timing)),
      el("button", { type: "button", class: "small", id: "to-saw" }, "See who saw what"));
  }
  if (run.notices.length) {
    parts.push(el("h4", {}, "Notices during the run"),
      bounded("Notices during the run", { class: "notices" }, el("ul", {}, ...run.notices.map((text) => el("li", {}, text)))));
  }
  return parts.filter(Boolean);
}

/** The offers grouped by the item of the reply that they match, in the order in which they came. */
function ideas(offers) {
  const groups = new Map();
  for (const each of offers) groups.set(each.item ?? "", [...(groups.get(each.item ?? "") ?? []), each]);
  return [...groups];
}

function offer({ title, vendor, price, url, matched }) {
  return el("li", { class: "offer" },
    bounded("The product", { class: "title" }, title), el("p", { class: "price" }, price ? rupiah(price) : ""),
    el("p", { class: "vendor" }, el("span", {}, `from ${vendor}`),
      matched?.length ? el("span", {}, "; matches ") : null, ...(matched ?? []).map((word) => el("span", { class: "word" }, word))),
    url ? el("p", { class: "url" }, url) : null);
}

// --- Who saw what ----------------------------------------------------------------------------------------------------

export function drawSaw({ sheet, run, sanitise }) {
  const changedSince = Boolean(run && sheet && run.seen !== sheet.seen);
  fill("most", [sheet, sanitise, changedSince], () => {
    if (!sheet) return empty("Choose a prompt sheet. You see here the prompt that would leave, before anything is sent.");
    return [
      el("p", { class: "quiet" }, "The prompt has ", count(sheet.tokens, "token"), ". The provider can compute it back from the numbers that leave your device. ",
        sanitise === "off" ? "Sanitising is off, so it holds your words unchanged." : "So your device first replaces the secrets that it recognises. It does not recognise all of them, so read the prompt."),
      changedSince ? el("p", { class: "note" }, "The last run sent another prompt. The next run would send this one.") : null,
      prompt(sheet),
      key(sheet),
      sheet.cautions?.length ? el("ul", { class: "notes cautions" }, ...sheet.cautions.map((each) => el("li", {}, `Look again: ${each}.`))) : null,
      legend(sheet.tags),
    ];
  });
  fill("views", [run?.phase, run?.done, sheet?.party], () => {
    if (run?.done) return table(run.done.views, sheet?.party, sheet?.tags);
    if (run?.phase === "failed" || run?.phase === "stopped") {
      return empty("This run did not finish, so there is no table. Assume that the provider knows the prompt above and the part of the reply that it wrote.");
    }
    return empty(run ? "The table appears when the reply is complete." : "After a run, the table shows word for word what you, the provider and a third party hold of it.");
  });
}

/**
 * The dialogue as it leaves, with its marks. A sheet's examples have nothing of the person's, so they are folded.
 * With `buttons`, a word that looks personal is a button that hides it, and a click on any other own word hides it, too.
 */
export function prompt({ prompt: messages, tags, sheet }, { buttons = true } = {}) {
  const message = ({ role, pieces }) =>
    el("div", { class: "message" }, el("p", { class: "role" }, role),
      el("p", { class: "words" }, ...pieces.flatMap(([text, kinds]) => piece(text, kinds, tags, buttons))));
  const isExample = ({ role }, i) => sheet && role !== "system" && i < messages.length - 1;
  const examples = messages.filter(isExample);
  return bounded("The prompt as it leaves", { class: "prompt" },
    ...messages.filter((each, i) => !isExample(each, i) && i < messages.length - 1).map(message),
    examples.length ? el("details", {}, el("summary", {}, `${count(examples.length, "message")} of examples from the sheet`), ...examples.map(message)) : null,
    messages.length ? message(messages.at(-1)) : null);
}

function piece(text, kinds, tags, buttons) {
  if (kinds.includes("tag")) return marked(text, tags);
  const isOpen = kinds.includes("open");
  if (kinds.includes("stays")) {
    return buttons ? el("button", { type: "button", class: "looks", "data-hide": text, title: "looks personal; press to hide it in this run" }, text)
      : el("mark", { class: "looks" }, text);
  }
  if (!kinds.includes("own")) return marked(text, tags);
  const words = buttons ? text.split(/([\p{L}\p{N}][\p{L}\p{M}\p{N}]*)/u).filter(Boolean).map((word) =>
    (/[\p{L}\p{N}]/u.test(word) ? el("span", { class: "own", "data-hide": word }, word) : word)) : [text];
  return isOpen ? [el("span", { class: "open" }, ...words)] : words;
}

function key({ prompt: messages }) {
  const kinds = new Set(messages.flatMap(({ pieces }) => pieces.flatMap(([, each]) => each)));
  const shown = [
    kinds.has("tag") && [el("mark", { class: "tag" }, "[TAG]"), ": the value stays here"],
    kinds.has("open") && [el("span", { class: "open" }, "underlined"), ": your profile declares it open, so it leaves as you wrote it"],
    kinds.has("stays") && [el("mark", { class: "looks" }, "marked"), ": it looks personal, and would leave as it is"],
    kinds.has("own") && ["Click any word of yours to hide it in this run."],
  ].filter(Boolean);
  return shown.length ? el("ul", { class: "key" }, ...shown.map((each) => el("li", {}, ...each))) : null;
}

function legend(tags) {
  const known = Object.entries(tags);
  if (!known.length) return el("p", { class: "note" }, "Nothing in it was replaced by a tag.");
  return el("div", { class: "legend" }, el("p", {}, "Known here only:"),
    el("dl", {}, ...known.map(([tag, value]) => el("div", {}, el("dt", {}, el("mark", { class: "tag" }, tag)), el("dd", {}, value)))));
}

// The roles are explicit because a phone shows the table as blocks, which a screen reader does not treat as a table.
function table(views, party, tags) {
  const heads = PARTIES.map(([kind, head]) => [kind, kind === "third party" && party ? `The third party ${party}` : head]);
  return el("table", { class: "views", role: "table", "aria-labelledby": "views-title" },
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" },
      el("th", { role: "columnheader", scope: "col" }, el("span", { class: "unseen" }, "Of this run")),
      ...heads.map(([kind, head]) => el("th", { role: "columnheader", scope: "col", "data-party": kind }, head)))),
    el("tbody", { role: "rowgroup" }, ...views.map(({ kind, cells }) => el("tr", { role: "row" },
      el("th", { role: "rowheader", scope: "row" }, kind),
      ...cells.map((cell, i) => el("td", { role: "cell", "data-party": cell.party, "data-holds": String(cell.holds) },
        el("span", { class: "party", "aria-hidden": "true" }, heads[i]?.[1] ?? cell.party), ...held(cell, kind, tags)))))));
}

function held({ holds, says, content }, kind, tags) {
  const said = says && says !== "yes" && says !== "no" ? el("p", { class: "says" }, says) : null;
  if (!holds) return [said ?? el("p", { class: "says" }, "no")];
  return [said, bounded(kind, { class: "words" }, ...marked(content ?? "", tags))].filter(Boolean);
}

