// The notice at the top of every page while the service, or its database, does not answer. Every request reports how it
// went; while there is no answer, and on pages that ask for nothing, the service is asked at intervals.

import { root } from "./root.js";

const AGAIN_MS = 3000; // while there is no answer
const QUIET_MS = 15000; // without another request
const PROXY = [502, 503, 504]; // what a proxy answers for a service that is away
let timer = null;

/** There was no answer: `message` says why. */
export function isAway({ message }) {
  show(`${message} The page shows the last known state; retrying.`);
  askAfter(AGAIN_MS);
}

/** There was an answer. */
export function isBack() {
  show("");
  askAfter(QUIET_MS);
}

/** Whether a response shows that the service or its database is away; `body`: its problem, or null. */
export const showsAway = (status, body) =>
  body?.code === "database_away" || (PROXY.includes(status) && body?.code === undefined);

function show(text) {
  const place = document.getElementById("away");
  if (place.textContent === text) return; // each write is read out by screen readers
  place.textContent = text;
  place.hidden = !text;
}

function askAfter(ms) {
  clearTimeout(timer);
  timer = setTimeout(ask, ms);
}

async function ask() {
  if (document.hidden) return askAfter(AGAIN_MS);
  try {
    const answer = await fetch(`${root}/readyz`, { headers: { Accept: "application/json" }, cache: "no-store" });
    const body = await answer.json().catch(() => null);
    if (body?.database === "ok" || answer.status < 500) isBack();
    else isAway({ message: body?.database ? "The database does not answer." : "The service does not answer." });
  } catch {
    isAway({ message: "The service does not answer. Is it running?" });
  }
}

askAfter(QUIET_MS);
