// The list of jobs: live rows, filters without a reload, and actions on the selected rows.

import { filterOf, steer, steerAll } from "./bulk.js";
import { confirm, toast } from "./dialog.js";
import { number } from "./format.js";
import { request } from "./http.js";
import { onKeys } from "./keys.js";
import { root } from "./root.js";
import { follow } from "./stream.js";

const MOST_COMPARED = 12;
const DONE = { cancel: "cancelled", retry: "queued again", delete: "deleted" };
const STATES_OF = {
  cancel: ["queued", "running", "paused"],
  retry: ["failed", "cancelled"],
  delete: ["succeeded", "failed", "cancelled"],
}; // buttons of the status filter whose jobs an action applies to
const STATES = {
  live: "live",
  polling: "live, every few seconds",
  away: "the service does not answer; retrying",
  ended: "",
};

const $ = (id) => document.getElementById(id);
const rows = () => [...$("rows").children];
const picked = () => rows().filter((row) => box(row).checked);
const box = (row) => row.querySelector(".pick input");
let stop = () => {};
let reading = new AbortController(); // of the view that is loading; aborted when another one is requested
let everything = false; // whether all jobs that match are selected, on every page of the list

// --- live rows --------------------------------------------------------------------------------------------------------

function listen() {
  stop();
  if (!document.querySelector(".jobs")) return;
  stop = follow(location.href, { onEvent, onState, poll: readAnew });
}

function onState(state) {
  $("live").textContent = STATES[state];
}

function onEvent({ type, data }) {
  if (type === "row") put(data.id, data.html);
  if (type === "view") keep(data.ids, data.counts);
}

/** Replace the row of this job, or insert it in order of ids: newest first. */
function put(id, html) {
  const stencil = document.createElement("template");
  stencil.innerHTML = html; // rendered by our server; Jinja has escaped the texts of users
  const row = stencil.content.firstElementChild;
  const old = $(id);
  if (old?.dataset.version === row.dataset.version) return;
  if (old) replace(old, row);
  else $("rows").insertBefore(row, rows().find((other) => other.id < id) ?? null);
}

/** Replace a row; its checkbox and the focus are kept. */
function replace(old, row) {
  box(row).checked = box(old).checked;
  const place = old.contains(document.activeElement)
    ? [...old.querySelectorAll("a, input")].indexOf(document.activeElement)
    : -1;
  old.replaceWith(row);
  if (place >= 0) row.querySelectorAll("a, input")[place]?.focus({ preventScroll: true });
  count();
}

function keep(ids, counts) {
  const shown = new Set(ids);
  for (const row of rows()) if (!shown.has(row.id)) row.remove();
  for (const label of document.querySelectorAll("[data-count]")) {
    const many = counts[label.dataset.count] ?? 0;
    label.textContent = typeof many === "string" ? many : number(many); // a text is "10 000+"
  }
  document.querySelector(".jobs").hidden = ids.length === 0;
  $("none").hidden = ids.length > 0;
  count();
}

/** Without a stream: load the page again, and return its rows as events. */
async function readAnew() {
  const page = await read(location.href);
  const fresh = [...page.querySelectorAll("#rows > tr")];
  const counts = Object.fromEntries(
    [...page.querySelectorAll("[data-count]")].map((label) => [label.dataset.count, label.textContent]),
  );
  return [
    ...fresh.map((row) => ({ type: "row", id: null, data: { id: row.id, html: row.outerHTML } })),
    { type: "view", id: null, data: { ids: fresh.map((row) => row.id), counts } },
  ];
}

// --- filters ----------------------------------------------------------------------------------------------------------

async function read(address, signal) {
  const answer = await request(address, { headers: { Accept: "text/html" }, signal });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  page.address = answer.url; // after redirects
  return page;
}

/** Show another view of the list. */
async function go(address, { push = true } = {}) {
  reading.abort();
  reading = new AbortController();
  let page;
  try {
    page = await read(address, reading.signal);
  } catch (problem) {
    if (problem.name === "AbortError") return;
    location.href = address; // the page itself shows the error
    return;
  }
  if (push) history.pushState(null, "", page.address);
  $("list").replaceWith(page.getElementById("list"));
  for (const hidden of document.querySelectorAll("#search [type=hidden]")) hidden.remove();
  $("search").prepend(...page.querySelectorAll("#search [type=hidden]"));
  const [field, fresh] = [document, page].map((of) => of.querySelector("#search [type=search]"));
  if (!push || document.activeElement !== field) field.value = fresh.value; // not while the next search is typed
  $("search").querySelector("details").open = page.querySelector("#search details").open;
  for (const at of $("search").querySelectorAll("[data-at]")) {
    at.dataset.at = page.querySelector(`#search [name=${at.name}]`).dataset.at;
    at.value = "";
    fillIn(at);
  }
  count();
  listen();
}

function search() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData($("search"))) {
    if (value) query.set(name, name.startsWith("created_") ? new Date(value).toISOString() : value);
  }
  const address = new URL($("search").action);
  address.search = query;
  return go(address.href);
}

/** Set a datetime-local field, which is in local time, from the UTC time in its `data-at`. */
function fillIn(field) {
  const at = new Date(field.dataset.at);
  if (!field.dataset.at || Number.isNaN(at.valueOf())) return;
  field.value = new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

// --- the selection ----------------------------------------------------------------------------------------------------

function count() {
  const chosen = picked();
  const whole = chosen.length > 0 && chosen.length === rows().length;
  everything &&= whole;
  $("bar").hidden = chosen.length === 0;
  $("all").checked = whole;
  $("all").indeterminate = chosen.length > 0 && !whole;
  $("picked").textContent = everything ? "All matching jobs" : chosen.length ? `${chosen.length} selected` : "";
  $("everything").hidden = !whole || everything || !document.querySelector(".paging [rel=next]");
  for (const button of $("bar").querySelectorAll("[data-action]")) label(button, chosen);
}

/** Enable a button, and show the number of selected jobs that it applies to, where it is not all of them. */
function label(button, chosen) {
  const { action } = button.dataset;
  if (action === "compare") {
    button.disabled = everything || chosen.length < 2 || chosen.length > MOST_COMPARED;
    button.title = button.disabled ? `Select 2 to ${MOST_COMPARED} jobs` : "";
    return;
  }
  const fit = suited(action).length;
  button.disabled = fit === 0 && !everything;
  button.querySelector(".fit").textContent = fit && fit < chosen.length && !everything ? fit : "";
}

const suited = (action) => picked().filter((row) => row.dataset.actions.split(" ").includes(action));

async function act(action) {
  const chosen = everything ? picked() : suited(action);
  if (chosen.length === 0 || !(await really(action, chosen))) return;
  try {
    report(
      action,
      await (everything
        ? steerAll(action, filterOf(location.search))
        : steer(
            action,
            chosen.map((row) => row.id),
          )),
    );
  } catch (problem) {
    toast(problem.message, { bad: true });
  }
}

function compare() {
  const ids = picked().map((row) => row.id);
  if (!everything && ids.length >= 2 && ids.length <= MOST_COMPARED)
    location.href = `${root}/compare?${ids.map((id) => `job=${id}`).join("&")}`;
}

const QUESTIONS = {
  cancel: { action: "Cancel", text: "Running jobs stop; their checkpoints are kept, and Retry continues from them." },
  retry: { action: "Retry", text: "They are queued again, and continue from their last checkpoints." },
  delete: { action: "Delete", text: "Logs, files and checkpoints are deleted too. This cannot be undone." },
};

/** The row that had the focus may have been replaced while a question was open. */
function focusAgain(id) {
  if (document.activeElement === document.body) $(id)?.querySelector(".name a").focus({ preventScroll: true });
}

/** Ask before an action, and say to how many jobs it applies; one job is retried without a question. */
async function really(action, chosen) {
  if (action === "retry" && chosen.length === 1 && !everything) return true;
  const { action: word, text } = QUESTIONS[action];
  const counted = everything ? matching(action) : [];
  const count = everything ? counted.reduce((sum, label) => sum + countOf(label), 0) : chosen.length;
  const atLeast = counted.some((label) => label.textContent.endsWith("+")) ? "at least " : "";
  const jobs = count === 1 && !atLeast ? "1 job" : `${atLeast}${number(count)} jobs`;
  const all = count === 1 && !atLeast ? "the only job that matches" : `all ${jobs} that match`;
  const what = everything ? all : count === 1 ? chosen[0].dataset.name : jobs;
  const row = rows().find((one) => one.contains(document.activeElement));
  const yes = await confirm({
    title: `${word} ${what}?`,
    text,
    action: `${word} ${count === 1 && !atLeast ? "the job" : jobs}`,
    danger: action !== "retry",
  });
  if (row) focusAgain(row.id);
  return yes;
}

/** The labels whose numbers are those of the jobs on all pages of the list that an action applies to. */
function matching(action) {
  const labels = [...document.querySelectorAll("[data-count]")];
  const chosen = labels.filter((label) => label.closest("[aria-current]"));
  return (chosen.length ? chosen : labels).filter((label) => STATES_OF[action].includes(label.dataset.count));
}

const countOf = (label) => Number(label.textContent.replace(/\D/g, ""));

/** Show the outcomes of a bulk action. */
function report(action, answer) {
  const jobs = answer.succeeded === 1 ? "1 job" : `${number(answer.succeeded)} jobs`;
  const refused = answer.data.filter((outcome) => !outcome.ok);
  if (answer.succeeded || !refused.length) toast(`${jobs} ${DONE[action]}`);
  if (refused.length)
    toast(refused.map(({ id, error }) => `${$(id)?.dataset.name ?? id}: ${error.detail}`).join("; "), { bad: true });
  for (const { id, ok } of answer.data) if (ok && $(id)) box($(id)).checked = false;
  count();
}

function clear() {
  for (const row of picked()) box(row).checked = false;
  count();
}

// --- keys -------------------------------------------------------------------------------------------------------------

/** Move the focus by `by` rows; without a focused row, to the first or last one. */
function step(by) {
  const all = rows();
  const here = all.findIndex((row) => row.contains(document.activeElement));
  const next = all[here < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(here + by, 0), all.length - 1)];
  next?.querySelector(".name a").focus();
}

/** Act on the selected rows or, if there are none, on the focused row. */
function actHere(action) {
  const row = rows().find((one) => one.contains(document.activeElement));
  if (picked().length === 0 && row) {
    box(row).checked = true;
    count();
  }
  return act(action);
}

function pickHere() {
  const row = rows().find((one) => one.contains(document.activeElement));
  if (!row) return;
  box(row).checked = !box(row).checked;
  count();
}

// --- begin ------------------------------------------------------------------------------------------------------------

document.addEventListener("change", ({ target }) => {
  if (target.id === "all") for (const row of rows()) box(row).checked = target.checked;
  if (target.closest(".pick")) count();
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("#list .pill, #list .paging a, #list .chip, #none a.all");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(link.href);
});
$("bar").addEventListener("click", ({ target }) => {
  const { id, dataset } = target.closest("button") ?? {};
  if (id === "clear") clear();
  if (id === "everything") {
    everything = true;
    count();
  }
  if (dataset?.action) dataset.action === "compare" ? compare() : act(dataset.action);
});
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
$("search").querySelectorAll("[data-at]").forEach(fillIn);
addEventListener("popstate", () => go(location.href, { push: false }));
addEventListener("pageshow", ({ persisted }) => persisted && listen());

onKeys("/", "Search", () => document.querySelector("#search [type=search]").focus());
onKeys("j", "Next job", () => step(1));
onKeys("k", "Previous job", () => step(-1));
onKeys("x", "Select or deselect this job", pickHere);
onKeys("v", "Compare the selected jobs", compare);
if (!("readOnly" in document.documentElement.dataset)) {
  onKeys("c", "Cancel the selected jobs", () => actHere("cancel"));
  onKeys("r", "Retry the selected jobs", () => actHere("retry"));
  onKeys("#", "Delete the selected jobs", () => actHere("delete"));
  onKeys("n", "New job", () => (location.href = `${root}/submit`));
}
count();
listen();
