// The Submit page: asks the service, as one types, what the job would cost or what is wrong with it; then sends it.

import { toast } from "./dialog.js";
import { duration, number, size } from "./format.js";
import { clearProblem, isFinal, post, showProblem } from "./http.js";
import * as snippets from "./snippets.js";
import { enliven, read, unsendable } from "./spec_form.js";

const PAUSE_MS = 250; // without a key, before the service is asked
const AGAIN_SECONDS = 3; // where it gave no verdict

const form = document.getElementById("spec");
const verdict = document.getElementById("verdict");
const figures = document.getElementById("figures");
const code = document.getElementById("code");
const send = document.getElementById("send");
let asked = new AbortController();
let timer = null;

// --- what it would cost ------------------------------------------------------------------------------------------------

function checkSoon(ms = PAUSE_MS) {
  clearTimeout(timer);
  asked.abort();
  figures.setAttribute("aria-busy", "true");
  timer = setTimeout(check, ms);
  showCode();
}

/** The answer to what stands there now; one that came too late was given up. */
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
  if (!problem.errors) throw problem; // a mistake of ours: the console shall have it
  const first = showProblem(form, problem);
  for (const wrong of form.querySelectorAll("[aria-invalid]")) {
    const folded = wrong.closest("details");
    if (folded) folded.open = true;
  }
  const count = problem.errors.length;
  say(count ? `${count} ${count === 1 ? "field is" : "fields are"} wrong` : "Not checked", "bad");
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

// --- as code -----------------------------------------------------------------------------------------------------------

function showCode() {
  const chosen = form.querySelector("[data-form][aria-pressed=true]").dataset.form;
  code.textContent = snippets[chosen](read(form), location.origin, "signedIn" in form.dataset);
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
    // not over https or loopback, or not allowed: the reader's own keys still may
    getSelection().selectAllChildren(code);
    toast("The text is selected: Ctrl+C copies it");
  }
}

// --- sending -----------------------------------------------------------------------------------------------------------

let sent = { body: null, key: null };

/** One key for one body, so that a press too many, or one after an answer that was lost, is the same job. */
function keyFor(body) {
  const text = JSON.stringify(body);
  if (sent.body !== text) sent = { body: text, key: drawKey() };
  return sent.key;
}

/** Not crypto.randomUUID(), which is missing on a page that came over plain HTTP from another machine. */
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
    location.assign(`/jobs/${job.id}`);
  } catch (error) {
    send.disabled = false;
    (showWrong(error) ?? send).focus();
  }
}

/** Back from the job's page: what is sent now is another job. */
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
