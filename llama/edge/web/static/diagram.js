// The right panel: the model as one row of layers, split in two, and the last round trip across the cut.

import { byId, count, el, size, time, visible } from "./text.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const PACE_MS = { lively: 120, calm: 800 }; // a person cannot read 35 round trips a second

let parts = null; // the elements that change, by name
let shape = ""; // shape of the model that they were made for
let scale = 1; // microseconds of a full bar. It falls slowly, so that bars do not jump; a very long bar is cut off

// --- Once per model --------------------------------------------------------------------------------------------------

function build({ n_layers, split_layer }) {
  parts = {};
  const part = (name, tag, attributes, ...children) => (parts[name] = el(tag, attributes, ...children));
  const bar = (kind) => el("i", { class: `bar ${kind}` }, el("b"));
  const bars = (n, kind) => Array.from({ length: n }, () => bar(kind));
  const far = n_layers - split_layer;

  parts.near = bars(split_layer, "layer");
  parts.embed = bar("embed");
  parts.far = bars(far, "layer");
  parts.head = bar("head");

  const row = (name, label) => el("div", {}, el("dt", {}, label), part(name, "dd", {}, "–"));
  const nearName = split_layer === 1 ? "Layer 0" : `Layers 0 … ${split_layer - 1}`;
  const farName = far === 1 ? `Layer ${split_layer}` : `Layers ${split_layer} … ${n_layers - 1}`;

  const device = el("div", { class: "zone device" },
    el("h3", {}, icon("device"), "Your device"),
    part("nearBars", "div", { class: "bars", role: "img" }, parts.embed, ...parts.near),
    el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, "embedding"), el("span", {}, nearName.toLowerCase())),
    el("dl", { class: "times" }, row("embedTime", "Embedding"), row("nearTime", nearName)),
    el("p", { class: "back-here" }, "The id becomes text here: ", part("text", "span", { class: "token" }, "–")));

  const cut = el("div", { class: "cut" },
    el("p", { class: "cut-name" }, "the cut"),
    el("div", { class: "crossing out" },
      part("tensor", "div", { class: "tensor", "aria-hidden": "true" }),
      el("div", { class: "wire", "aria-hidden": "true" }, el("i")),
      part("rows", "p", { class: "what" }, "hidden states"), part("bytes", "p", { class: "quiet" }, "")),
    el("div", { class: "crossing back" },
      el("div", { class: "wire", "aria-hidden": "true" }, el("i")),
      part("id", "p", { class: "what" }, "one token id"), part("way", "p", { class: "quiet" }, "comes back")));

  const cloud = el("div", { class: "zone cloud" },
    el("h3", {}, icon("cloud"), "The cloud", el("span", { class: "quiet" }, " the provider’s")),
    part("farBars", "div", { class: "bars", role: "img" }, ...parts.far, parts.head),
    el("div", { class: "axis", "aria-hidden": "true" },
      el("span", { class: "ends" }, el("span", {}, `layer ${split_layer}`), far > 1 ? el("span", {}, `layer ${n_layers - 1}`) : null),
      el("span", { class: "head" }, "head")),
    el("dl", { class: "times" }, row("farTime", farName), row("headTime", "Output head"),
      row("sampleTime", "Choosing the token"), row("queueTime", "Waiting in the queue")));

  const whole = el("div", { class: "whole" },
    el("p", { class: "whole-title" }, "Time of this round trip ", part("total", "strong", {}, "")),
    el("div", { class: "share", "aria-hidden": "true" },
      ...["device", "network", "queue", "layers", "head"].map((name) => part(`share-${name}`, "i", { class: name }))),
    el("ul", { class: "keys" }, ...[["device", "device"], ["network", "network"], ["queue", "queue"], ["layers", "cloud’s layers"], ["head", "output head"]]
      .map(([name, label]) => el("li", {}, el("i", { class: name, "aria-hidden": "true" }), `${label} `, part(`key-${name}`, "span", {}, "–")))));

  const each = el("details", { class: "each" }, el("summary", {}, "Every layer’s time"), part("list", "ol", { start: 0 }));
  each.addEventListener("toggle", () => parts.last && list(parts.last));

  const figures = el("div", { class: "figures" },
    el("div", { class: "figure chosen" }, el("p", {}, "Token chosen"), part("token", "p", { class: "token" }, "–")),
    el("div", { class: "figure" }, el("p", {}, "Tokens so far"), part("count", "p", { class: "number" }, "0")),
    el("div", { class: "figure" }, el("p", {}, "Tokens per second"), part("rate", "p", { class: "number" }, "–")));

  const title = byId("split-title");
  byId("diagram").replaceChildren(title, part("lead", "p", { class: "lead quiet" }), figures,
    part("stage", "div", { class: "stage" }, device, cut, cloud), whole, each,
    el("details", { class: "each" }, el("summary", {}, "In plain words"), el("p", { class: "note" }, "A language model reads and writes tokens: words, or pieces of words. Each token passes through many layers of calculations. Your device computes the first layers, and the provider computes all others. For each token, your device sends one hidden state, which is a list of numbers. The number of the next token comes back. Only your device knows the meaning of the tags, so only it can turn the reply into your own words.")),
    el("p", { class: "note honest" }, "Hidden states are not a secret code: the provider can compute the prompt back from them. Your protection is that your device replaces recognised secrets by tags before the first embedding."));
}

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  device: "M7 2h10a2 2 0 0 1 2 2v16a2 2 0 0 1-2 2H7a2 2 0 0 1-2-2V4a2 2 0 0 1 2-2zm3 17h4",
  cloud: "M7 19a5 5 0 0 1-.6-9.96 6 6 0 0 1 11.5 1.5A4.3 4.3 0 0 1 17.5 19z",
};

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

// --- Per round trip --------------------------------------------------------------------------------------------------

let drawnAt = 0;
let drawnKey = "";

/** Draws the run's last round trip. Returns true if it was postponed and must be called again soon. */
export function drawDiagram({ model, run }) {
  if (!model) return false;
  const wanted = `${model.n_layers}/${model.split_layer}`;
  if (shape !== wanted) {
    build(model);
    shape = wanted;
    drawnKey = "";
  }
  const key = `${run?.id} ${run?.phase} ${run?.iteration?.index} ${run?.iteration?.rows} ${run?.prefill?.done}`;
  if (key === drawnKey) return false;
  const busy = run !== null && ["asking", "prefill", "decoding"].includes(run.phase);
  const pace = calm.matches ? PACE_MS.calm : PACE_MS.lively;
  if (busy && performance.now() - drawnAt < pace) return true;
  drawnKey = key;
  drawnAt = performance.now();
  parts.stage.dataset.busy = String(busy);
  parts.stage.dataset.phase = run?.phase ?? "none";
  parts.lead.replaceChildren(lead(model, run));
  if (run?.iteration) draw(run.iteration, model, run);
  else clear(model, run);
  return false;
}

function lead({ n_layers, split_layer, dim }, run) {
  if (run?.phase === "prefill" && run.prefill) {
    return `The prompt crosses first, as hidden states of ${dim} numbers each: ${run.prefill.done} of ${run.prefill.of} so far.`;
  }
  if (run?.iteration) return "For each token, one hidden state crosses to the cloud, and one token id comes back.";
  if (run) return "Nothing has crossed yet.";
  return `The model has ${n_layers} layers: ${split_layer} here, ${n_layers - split_layer} in the cloud. Nothing has crossed yet.`;
}

function clear(model, run) {
  scale = 1;
  parts.last = null;
  for (const each of [parts.embed, ...parts.near, ...parts.far, parts.head]) height(each, 0);
  for (const name of ["embedTime", "nearTime", "farTime", "headTime", "sampleTime", "queueTime"]) say(name, "–");
  for (const name of ["device", "network", "queue", "layers", "head"]) share(name, 0, 1);
  say("total", "");
  say("token", "–");
  say("text", "–");
  say("rate", "–");
  say("count", "0");
  say("rows", run?.prefill ? `${run.prefill.done} × ${model.dim}` : "hidden states");
  say("bytes", `${model.dim} numbers per token`);
  say("id", "one token id");
  say("way", "comes back");
  parts.tensor.dataset.rows = "1";
  parts.nearBars.setAttribute("aria-label", "No times yet.");
  parts.farBars.setAttribute("aria-label", "No times yet.");
  parts.list.replaceChildren();
}

function draw(iteration, model, run) {
  const { device, cloud, network_us: network } = iteration;
  parts.last = { iteration, model };
  const near = device.layers_us;
  const far = cloud?.layers_us ?? [];
  const sorted = [...near, ...far].sort((a, b) => a - b);
  scale = Math.max(1.25 * sorted[Math.floor(0.9 * (sorted.length - 1))], 0.9 * scale);
  height(parts.embed, device.embed_us);
  parts.near.forEach((each, i) => height(each, near[i], `layer ${i}`));
  parts.far.forEach((each, i) => height(each, far[i] ?? 0, `layer ${model.split_layer + i}`));
  height(parts.head, cloud?.head_us ?? 0, "output head");

  const deviceTotal = device.embed_us + sum(near);
  say("embedTime", time(device.embed_us));
  say("nearTime", time(sum(near)));
  say("farTime", cloud ? time(sum(far)) : "unknown");
  say("headTime", cloud ? time(cloud.head_us) : "unknown");
  say("sampleTime", cloud ? time(cloud.sample_us) : "unknown");
  say("queueTime", cloud ? time(cloud.queue_us) : "unknown");
  parts.nearBars.setAttribute("aria-label", `Embedding ${time(device.embed_us)}, first layers ${time(sum(near))}.`);
  parts.farBars.setAttribute("aria-label", far.length
    ? `${count(far.length, "layer")}, ${time(sum(far))} together, ${time(Math.min(...far))} to ${time(Math.max(...far))} each; output head ${time(cloud.head_us)}.`
    : "The cloud does not report its times.");

  const times = { device: deviceTotal, network, queue: cloud?.queue_us ?? 0, layers: sum(far), head: (cloud?.head_us ?? 0) + (cloud?.sample_us ?? 0) };
  const total = sum(Object.values(times));
  for (const [name, us] of Object.entries(times)) share(name, us, total);
  say("total", time(total));

  parts.tensor.dataset.rows = iteration.rows > 1 ? "many" : "1";
  say("rows", `${iteration.rows} × ${iteration.dim} ${iteration.dtype}`);
  say("bytes", size(iteration.bytes));
  say("way", `network ${time(network)}`);
  if (iteration.token_id === null || iteration.token_id === undefined) {
    say("id", "no token yet");
    say("token", "–");
    say("text", "–");
  } else {
    say("id", `id ${iteration.token_id}`);
    parts.token.replaceChildren(...shown(iteration));
    parts.text.replaceChildren(...shown(iteration));
  }
  say("count", String(run.tokens));
  say("rate", iteration.tokens_per_s ? iteration.tokens_per_s.toFixed(1) : "–");
  if (parts.list.parentElement.open) list(parts.last);
}

function shown({ token, stop }) {
  if (token && !stop) return visible(token);
  return [el("span", { class: "sign in-words" }, stop ? "end of the reply" : "part of a character")];
}

/** Lists every layer's time as text; only while the list is open. */
function list({ iteration, model }) {
  if (!parts.list.parentElement.open) return;
  const near = iteration.device.layers_us.map((us) => [us, "device"]);
  const far = (iteration.cloud?.layers_us ?? []).map((us) => [us, "cloud"]);
  parts.list.replaceChildren(...[...near, ...far].map(([us, side], i) =>
    el("li", { class: side }, el("span", {}, `${i} `, el("span", { class: "unseen" }, i < model.split_layer ? "on your device" : "in the cloud")), el("span", {}, time(us)))));
}

function height(bar, us, name) {
  bar.firstChild.style.transform = `scaleY(${Math.min(1, us / scale)})`;
  bar.classList.toggle("over", us > scale);
  if (name) bar.title = `${name}: ${time(us)}`;
}

function share(name, us, total) {
  parts[`share-${name}`].style.flexGrow = String(us / total);
  say(`key-${name}`, us ? time(us) : "–");
}

function say(name, text) {
  parts[name].textContent = text;
}

const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
