// Requests to the program on this device. Every request sends the token of the page's address.

const HEARTBEAT_MS = 15000; // the program sends a line every 5 s; after three times that, the connection is dead
const LONGEST_WAIT_S = 10;

export class Locked extends Error {} // no token, or the token of another program
export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `The program answers with ${status}.`);
    this.status = status;
    this.body = body;
  }
}

const token = location.hash.slice(1);
addEventListener("hashchange", () => location.reload()); // the person pasted another program's address

function request(path, options = {}) {
  if (!/^[\w.~-]+$/.test(token)) throw new Locked("This address lacks the part after #.");
  return fetch(path, { ...options, headers: { "X-Token": token, ...options.headers }, cache: "no-store" });
}

async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  if (response.status === 403) throw new Locked(body.error || "");
  throw new Refused(response.status, body);
}

/** Sends a request with a JSON body, returns the JSON answer. Throws Locked, Refused, or (no answer) TypeError. */
export async function call(method, path, body) {
  const options = { method };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const response = await checked(await request(path, options));
  return response.json();
}

/** The reason why a call failed, for the person. */
export function reason(error) {
  return error instanceof TypeError ? "The program on this device does not answer." : error.message;
}

/** Waits until the page is visible: a browser has few connections to one address, and hidden tabs need none. */
const shown = () => new Promise((resolve) => {
  if (!document.hidden) resolve();
  else document.addEventListener("visibilitychange", resolve, { once: true });
});

/**
 * Follows the program's events for ever. It awaits `onEvent` for each event in turn. If the connection is lost,
 * `onLost` gets the seconds until the next attempt (0: now), and `onFound` is called when an attempt succeeds.
 */
export async function listen({ after, onEvent, onLost, onFound, until }) {
  for (let wait = 1; ; wait = Math.min(2 * wait, LONGEST_WAIT_S)) {
    await shown();
    const abort = new AbortController();
    const letGo = () => document.hidden && abort.abort();
    document.addEventListener("visibilitychange", letGo);
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => abort.abort(), HEARTBEAT_MS);
    };
    try {
      alive();
      const response = await checked(await request(`/api/events?after=${await after()}`, { signal: abort.signal }));
      onFound();
      wait = 1;
      for await (const line of lines(response.body, alive)) await onEvent(JSON.parse(line));
    } catch (error) {
      if (error instanceof Locked) throw error;
    } finally {
      clearTimeout(watchdog);
      document.removeEventListener("visibilitychange", letGo);
      abort.abort();
    }
    if (document.hidden) {
      wait = 0.5; // the next is 1
      continue;
    }
    onLost(wait);
    await until(wait);
    onLost(0);
  }
}

async function* lines(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    alive();
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line.trim()) yield line;
  }
}
