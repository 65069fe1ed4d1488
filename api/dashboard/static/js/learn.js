// The Learn page: requests a walk, waits for it, and moves from stage to stage. The server renders the numbers.

import { toast, withCode } from "./dialog.js";
import { clearProblem, get, isFinal, post, showProblem } from "./http.js";
import { onKeys } from "./keys.js";
import { root } from "./root.js";
import { isVisible, untilHidden } from "./visible.js";

const HOLD_SECONDS = 20; // of a long poll for the end of a walk
const form = document.getElementById("ask");
const field = (id) => document.getElementById(id);
const whole = (id) => (field(id).value.trim() === "" ? null : Number(field(id).value));

// --- the form ---------------------------------------------------------------------------------------------------------

function specOf() {
  const [type, reduction] = field("loss-type").value.split(" ");
  const spec = { dataset: field("dataset").value, architecture: netOf(), loss: { type, reduction } };
  for (const [name, id] of [
    ["batch", "batch-number"],
    ["batch_size", "batch-size"],
    ["seed", "seed"],
  ]) {
    if (whole(id) !== null) spec[name] = whole(id);
  }
  if (field("origin").value) spec.init_from = { job: field("origin").value };
  else spec.init = field("init").value;
  return spec;
}

function netOf() {
  if (field("type").value === "linear") return { type: "linear" };
  return { type: "mlp", hidden: [whole("hidden-units")], activation: field("bend").value };
}

async function walk() {
  const button = field("go");
  if (button.disabled) return; // it is sent already, or the token may only read
  clearProblem(form);
  button.disabled = true;
  try {
    const job = await post("/v1/walks", specOf());
    location.assign(`${root}/learn?job=${job.id}`);
  } catch (problem) {
    button.disabled = false;
    showProblem(form, problem)?.focus();
  }
}

/** Hide fields that do not apply; the weights of a finished job determine the network, and preset the dataset. */
function arrange() {
  const origin = field("origin").selectedOptions[0];
  const net = origin.dataset.net ? JSON.parse(origin.dataset.net) : null;
  if (net) {
    field("dataset").value = origin.dataset.dataset;
    field("type").value = net.type;
    if (net.type === "mlp") [field("hidden-units").value, field("bend").value] = [net.hidden[0], net.activation];
  }
  for (const id of ["type", "hidden-units", "bend"]) field(id).disabled = net !== null;
  for (const part of form.querySelectorAll(".two")) part.hidden = field("type").value === "linear";
  form.querySelector(".drawn").hidden = net !== null;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  walk();
});
form.addEventListener("change", arrange);
arrange();

function turnTo(batch) {
  if (batch < 1) return;
  field("batch-number").value = batch;
  walk();
}

field("before")?.addEventListener("click", () => turnTo(whole("batch-number") - 1));
field("next")?.addEventListener("click", () => turnTo(whole("batch-number") + 1));
onKeys("w", "Walk", walk);

// --- a walk that has not ended ----------------------------------------------------------------------------------------

/** By long polls, which a hidden page does not hold: a browser has six connections per host for all of its pages. */
async function wait(job) {
  for (let hold = 0; ; hold = HOLD_SECONDS) {
    await isVisible();
    const signal = untilHidden();
    // the first poll returns at once with the reason for waiting
    try {
      const now = await get(`/v1/jobs/${job}?wait=${hold}&until=terminal`, { signal });
      if (now.terminal) return location.reload();
      field("why").replaceChildren(...withCode(now.queue?.reason?.detail ?? "The walk has not ended yet."));
    } catch (problem) {
      if (signal.aborted) continue;
      if (isFinal(problem)) return toast(problem.message, { bad: true });
      await new Promise((done) => setTimeout(done, 1000 * (problem.retryAfter ?? 2)));
    }
  }
}

const waiting = document.getElementById("waiting");
if (waiting && waiting.dataset.terminal === "no") wait(waiting.dataset.job);

// --- from stage to stage ----------------------------------------------------------------------------------------------

const stages = [...document.querySelectorAll(".stage")];
const links = new Map([...document.querySelectorAll(".stages a")].map((link) => [link.hash.slice(1), link]));

function step(by) {
  const here = stages.findIndex((stage) => stage.contains(document.activeElement));
  const to = stages[here < 0 ? Math.max(nearest(), 0) : Math.min(Math.max(here + by, 0), stages.length - 1)];
  to.focus({ preventScroll: true });
  to.scrollIntoView({ block: "start" });
}

const nearest = () => stages.findIndex((stage) => stage.getBoundingClientRect().bottom > 40);

function markCurrent() {
  const now = stages[nearest()];
  for (const [id, link] of links) {
    if (id === now?.id) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

if (stages.length) {
  onKeys("j", "Next stage", () => step(1));
  onKeys("k", "Previous stage", () => step(-1));
  onKeys("n", "Next batch", () => field("next").click());
  addEventListener("scroll", () => requestAnimationFrame(markCurrent), { passive: true });
  markCurrent();
}
