// Server-sent events from a cursor, reconnected after each break, with polling where no stream is free. A browser has six
// connections per host for all of its pages, so a hidden page holds no stream, and no more than three visible ones do.

import { get, isFinal, request } from "./http.js";
import { isVisible } from "./visible.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15000;
const POLL_MS = 3000;
const POLLS = 5; // polls before the stream is tried again
const STREAMS = 3; // of all visible pages of a browser: the other connections are for loading pages and for calls

/**
 * Follow `address`. `onEvent({type, id, data})` is called for each event, with `data` parsed; the event `end` is the
 * last. `onState` is called with `live`, `polling` (no stream is free), `away` (retrying) or `ended`, the latter with the
 * reason: null or the problem. `after`: the id of the last event that is known already. `poll(cursor)` loads new events
 * without a stream, as a list. Returns a function that stops following.
 */
export function follow(address, { onEvent, onState = () => {}, after = null, poll = null }) {
  let cursor = after;
  let failures = 0;
  let cut = new AbortController();
  let over = false;

  function take(event) {
    failures = 0;
    if (event.id !== null) cursor = event.id;
    onEvent(event);
    if (event.type === "end") stop(null);
  }

  async function read() {
    const headers = { Accept: "text/event-stream" };
    if (cursor !== null) headers["Last-Event-ID"] = String(cursor);
    const answer = await request(address, { headers, signal: cut.signal, cache: "no-store" });
    onState("live");
    for await (const event of eventsOf(answer.body)) {
      take(event);
      if (over) return;
    }
  }

  async function readByPolling() {
    for (let times = 0; times < POLLS && !over && !cut.signal.aborted; times += 1) {
      for (const event of await poll(cursor)) take(event);
      if (over) return;
      onState("polling");
      await pause(POLL_MS, cut.signal);
    }
  }

  async function run() {
    while (!over) {
      await isVisible();
      cut = new AbortController();
      const free = await takePlace();
      if (over) return free?.();
      try {
        if (!free && poll) throw NO_PLACE;
        await read();
      } catch (error) {
        if (over) return;
        if (cut.signal.aborted) continue; // the page was hidden, and is visible again
        if (isFinal(error)) return stop(error);
        if (error.code === "too_many_streams" && poll) {
          await readByPolling().catch(() => onState("away"));
          continue;
        }
        onState("away");
        await pause((error.retryAfter ?? 0) * 1000, cut.signal);
      } finally {
        free?.();
      }
      await pause(Math.min(FIRST_PAUSE_MS * 2 ** failures, LONGEST_PAUSE_MS), cut.signal);
      failures += 1;
    }
  }

  function stop(why) {
    if (over) return;
    over = true;
    cut.abort();
    document.removeEventListener("visibilitychange", hide);
    removeEventListener("pagehide", leave);
    onState("ended", why);
  }

  const hide = () => document.hidden && cut.abort();
  const leave = () => cut.abort();
  document.addEventListener("visibilitychange", hide);
  addEventListener("pagehide", leave);
  run();
  return () => stop(null);
}

const NO_PLACE = { status: 0, code: "too_many_streams" };

/** Resolves to a function that frees the place of a stream, or to null if other pages hold all places. */
async function takePlace() {
  try {
    for (let place = 1; place <= STREAMS; place += 1) {
      const free = await lock(`gradq stream ${place}`);
      if (free) return free;
    }
    return null;
  } catch {
    return () => {}; // without https, except on this machine, a browser has no locks
  }
}

/** Resolves to a function that frees the lock, or to null if another page holds it. */
function lock(name) {
  return new Promise((done, failed) => {
    const held = (found) => (found ? new Promise((free) => done(free)) : done(null));
    navigator.locks.request(name, { ifAvailable: true }, held).catch(failed);
  });
}

/** Follow a job's log at `links.events` of the job. Without a stream its pages are polled. */
export function followLog(address, options) {
  return follow(address, { ...options, after: options.after ?? 0, poll: (cursor) => pageOfLog(address, cursor) });
}

async function pageOfLog(address, cursor) {
  const page = await get(`${address}?after=${cursor}`);
  const events = page.data.map((line) => ({ type: line.type, id: line.seq, data: line }));
  if (events.length) return events;
  const job = await get(address.replace(/\/events$/, ""));
  return job.terminal ? [{ type: "end", id: null, data: { status: job.status } }] : [];
}

/** Yields the events of a stream's body. */
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // aborted already
  }
}

/** The event of one block of lines; null for a comment, and for a block that only sets the retry interval. */
function parse(block) {
  const event = { type: "message", id: null, data: "" };
  for (const line of block.split("\n")) {
    const at = line.indexOf(":");
    const [name, value] = [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
    if (name === "event") event.type = value;
    if (name === "id") event.id = value;
    if (name === "data") event.data += value;
  }
  return event.data ? { ...event, data: JSON.parse(event.data) } : null;
}

/** Resolves after `ms`, or when the signal is aborted. */
function pause(ms, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    const end = () => {
      clearTimeout(timer);
      done();
    };
    signal.addEventListener("abort", end, { once: true });
  });
}
