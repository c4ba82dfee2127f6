// Elements, and words for numbers. Everything from the program is untrusted text. It enters the page only here, and
// only through text nodes.

export const byId = (id) => document.getElementById(id);

/** Makes an element with attributes, and with elements or texts as children. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Splits the text into pieces, with <mark> around each of the tags. */
export function marked(text, tags) {
  const known = Object.keys(tags ?? {});
  if (!known.length) return [text];
  const escaped = known.map((tag) => tag.replace(/[^\w]/g, "\\$&"));
  return text.split(new RegExp(`(${escaped.join("|")})`)).filter(Boolean)
    .map((piece) => (known.includes(piece) ? el("mark", { class: "tag" }, piece) : piece));
}

// A box that scrolls can be focused with the keyboard. A box that does not scroll is skipped.
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    if (target.scrollHeight > target.clientHeight + 1) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});

/** A box that bounds a long text. */
export function bounded(label, attributes, ...children) {
  const box = el("div", { role: "group", "aria-label": label, ...attributes }, ...children);
  box.classList.add("bounded");
  sizes.observe(box);
  return box;
}

/** Microseconds as milliseconds: 0.01 ms, 0.9 ms, 26.4 ms, 1.2 s. */
export function time(us) {
  const ms = us / 1000;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 1) return `${ms.toFixed(1)} ms`;
  return `${ms.toFixed(2)} ms`;
}

/** Bytes: 85 bytes, 2.3 kB, 1.2 MB. */
export function size(bytes) {
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  if (bytes >= 1e3) return `${(bytes / 1e3).toFixed(1)} kB`;
  return `${bytes} bytes`;
}

/** 1 token, 26 tokens. */
export const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** Whole rupiah: Rp 400.000. */
export const rupiah = (n) => `Rp ${String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, ".")}`;

/** Makes a token visible: a space, a line's end and other invisible characters get a sign. */
export function visible(token) {
  const signs = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "⏎", "\u00a0": "␣" };
  return [...token].map((char) => {
    if (signs[char]) return el("span", { class: "sign" }, signs[char]);
    if (/[\p{C}\p{Z}]/u.test(char)) return el("span", { class: "sign" }, `U+${char.codePointAt(0).toString(16)}`);
    return char;
  });
}
