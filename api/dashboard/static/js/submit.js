// The Submit page: while the user types, the service validates the spec and estimates its cost; then the job is sent.

import { toast } from "./dialog.js";
import { duration, number, size } from "./format.js";
import { clearProblem, isFinal, post, showProblem } from "./http.js";
import { root } from "./root.js";
import * as snippets from "./snippets.js";
import { enliven, read, unsendable } from "./spec_form.js";

const PAUSE_MS = 250; // without a key, before a check
const AGAIN_SECONDS = 3; // before a failed check is retried

const form = document.getElementById("spec");
const verdict = document.getElementById("verdict");
const figures = document.getElementById("figures");
const code = document.getElementById("code");
const send = document.getElementById("send");
let asked = new AbortController();
let timer = null;

// --- check and estimate -------------------------------------------------------------------------------------------------

function checkSoon(ms = PAUSE_MS) {
  clearTimeout(timer);
  asked.abort();
  figures.setAttribute("aria-busy", "true");
  timer = setTimeout(check, ms);
  showCode();
}

/** Check the current content; the check before it is aborted. */
async function check() {
  asked.abort();
  asked = new AbortController();
  try {
    refuseUnsendable();
    showCost(await post("/v1/jobs?dry_run=true", read(form), { signal: asked.signal }));
  } catch (error) {
    if (error.name === "AbortError") return;
    showWrong(error);
    if (!isFinal(error)) timer = setTimeout(check, 1000 * (error.retryAfter ?? AGAIN_SECONDS));
  }
}

function refuseUnsendable() {
  const errors = unsendable(form);
  if (errors.length) throw Object.assign(new Error(), { name: "Problem", status: 422, errors });
}

function showCost(found) {
  clearProblem(form);
  say("Ready to submit", "good");
  write({
    parameters: number(found.parameters),
    steps: number(found.steps),
    seconds: duration(found.estimated_seconds),
    memory: size(found.estimated_memory_bytes),
    basis: `From ${found.basis}.`,
  });
}

function showWrong(problem) {
  if (!problem.errors) throw problem; // an error in this script: let it reach the console
  const first = showProblem(form, problem);
  for (const wrong of form.querySelectorAll("[aria-invalid]")) {
    const folded = wrong.closest("details");
    if (folded) folded.open = true;
  }
  const count = problem.errors.length;
  say(count ? `${count} ${count === 1 ? "field is" : "fields are"} invalid` : "Not checked", "bad");
  write({ parameters: "–", steps: "–", seconds: "–", memory: "–", basis: "" });
  return first;
}

function say(text, look) {
  if (verdict.textContent !== text) verdict.textContent = text;
  verdict.className = look;
}

function write(texts) {
  figures.removeAttribute("aria-busy");
  for (const [name, text] of Object.entries(texts)) form.querySelector(`[data-figure=${name}]`).textContent = text;
}

// --- code snippets ------------------------------------------------------------------------------------------------------

function showCode() {
  const chosen = form.querySelector("[data-form][aria-pressed=true]").dataset.form;
  code.textContent = snippets[chosen](read(form), location.origin + root, "signedIn" in form.dataset);
}

function chooseCode(button) {
  for (const one of form.querySelectorAll("[data-form]")) one.setAttribute("aria-pressed", String(one === button));
  showCode();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(code.textContent);
    toast("Copied");
  } catch {
    // not over https or localhost, or not allowed: select the text, so that the user can copy it
    getSelection().selectAllChildren(code);
    toast("The text is selected: copy it with Ctrl+C");
  }
}

// --- sending -----------------------------------------------------------------------------------------------------------

let sent = { body: null, key: null };

/** One Idempotency-Key per body, so that a double click, or a retry after a lost response, creates one job. */
function keyFor(body) {
  const text = JSON.stringify(body);
  if (sent.body !== text) sent = { body: text, key: drawKey() };
  return sent.key;
}

/** Not crypto.randomUUID(), which does not exist on pages from another machine over plain HTTP. */
const drawKey = () =>
  Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(16).padStart(8, "0")).join("");

async function submit(event) {
  event.preventDefault();
  if (send.disabled) return;
  clearTimeout(timer);
  asked.abort();
  send.disabled = true;
  try {
    refuseUnsendable();
    const body = read(form);
    const job = await post("/v1/jobs", body, { key: keyFor(body) });
    location.assign(`${root}/jobs/${job.id}`);
  } catch (error) {
    send.disabled = false;
    (showWrong(error) ?? send).focus();
  }
}

/** Also called on return from the job's page: what is sent then is a new job. */
function begin() {
  sent = { body: null, key: null };
  send.disabled = false;
  checkSoon(0);
}

enliven(form);
form.addEventListener("input", () => checkSoon());
form.addEventListener("submit", submit);
form.querySelectorAll("[data-form]").forEach((button) => button.addEventListener("click", () => chooseCode(button)));
document.getElementById("copy").addEventListener("click", copy);
addEventListener("pageshow", (event) => event.persisted && begin());
begin();
