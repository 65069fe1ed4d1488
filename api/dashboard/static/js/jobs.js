// The list of jobs: rows that stay true, filters without a reload, and what is done with the rows that are selected.

import { filterOf, steer, steerAll } from "./bulk.js";
import { confirm, toast } from "./dialog.js";
import { number } from "./format.js";
import { request } from "./http.js";
import { onKeys } from "./keys.js";
import { follow } from "./stream.js";

const MOST_COMPARED = 12;
const DONE = { cancel: "cancelled", retry: "queued again", delete: "deleted" };
const STATES = {
  live: "live",
  polling: "live, every few seconds",
  away: "the service does not answer; trying again",
  ended: "",
};

const $ = (id) => document.getElementById(id);
const rows = () => [...$("rows").children];
const picked = () => rows().filter((row) => box(row).checked);
const box = (row) => row.querySelector(".pick input");
let stop = () => {};
let reading = new AbortController(); // of another view: one that is asked for later takes its place
let everything = false; // selected are all jobs that the view would show, page after page

// --- rows that stay true ----------------------------------------------------------------------------------------------

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

/** Put a row in the place of its forerunner, or where its id belongs: newest first. */
function put(id, html) {
  const stencil = document.createElement("template");
  stencil.innerHTML = html; // a row of our own server's making, in which Jinja has escaped what users wrote
  const row = stencil.content.firstElementChild;
  const old = $(id);
  if (old?.dataset.version === row.dataset.version) return;
  if (old) replace(old, row);
  else $("rows").insertBefore(row, rows().find((other) => other.id < id) ?? null);
}

/** Neither a tick nor the keyboard's place gets lost. */
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
  for (const label of document.querySelectorAll("[data-count]"))
    label.textContent = number(counts[label.dataset.count] ?? 0);
  document.querySelector(".jobs").hidden = ids.length === 0;
  $("none").hidden = ids.length > 0;
  count();
}

/** Without a stream: the page again, as events. */
async function readAnew() {
  const page = await read(location.href);
  const fresh = [...page.querySelectorAll("#rows > tr")];
  const counts = Object.fromEntries(
    [...page.querySelectorAll("[data-count]")].map((label) => [
      label.dataset.count,
      Number(label.textContent.replace(/\D/g, "")),
    ]),
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
  page.address = answer.url; // where a search led to
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
    location.href = address; // the page itself says what is wrong
    return;
  }
  if (push) history.pushState(null, "", page.address);
  $("list").replaceWith(page.getElementById("list"));
  for (const hidden of document.querySelectorAll("#search [type=hidden]")) hidden.remove();
  $("search").prepend(...page.querySelectorAll("#search [type=hidden]"));
  const [field, fresh] = [document, page].map((of) => of.querySelector("#search [type=search]"));
  if (document.activeElement !== field) field.value = fresh.value;
  count();
  listen();
}

function search() {
  const query = new URLSearchParams();
  for (const [name, value] of new FormData($("search"))) {
    if (value) query.set(name, name.startsWith("created_") ? new Date(value).toISOString() : value);
  }
  return go(`/?${query}`);
}

/** A moment of the address, in UTC, as the field for it shows it: in the reader's zone. */
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
  $("picked").textContent = everything ? "All that match" : chosen.length ? `${chosen.length} selected` : "";
  $("everything").hidden = !whole || everything || !document.querySelector(".paging [rel=next]");
  for (const button of $("bar").querySelectorAll("[data-action]")) label(button, chosen);
}

/** What a button would do, to how many of the chosen. */
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
  if (chosen.length === 0 || (action === "delete" && !(await reallyDelete(chosen)))) return;
  try {
    tell(
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
    location.href = `/compare?${ids.map((id) => `job=${id}`).join("&")}`;
}

function reallyDelete(chosen) {
  const what = everything
    ? "every job that matches and has ended"
    : chosen.length === 1
      ? chosen[0].dataset.name
      : `${chosen.length} jobs`;
  const text = "Logs, files and checkpoints go with it. This cannot be undone.";
  return confirm({ title: `Delete ${what}?`, text, action: "Delete", danger: true });
}

function tell(action, answer) {
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

/** The row that the keyboard is on, or the one after or before it. */
function step(by) {
  const all = rows();
  const here = all.findIndex((row) => row.contains(document.activeElement));
  const next = all[here < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(here + by, 0), all.length - 1)];
  next?.querySelector(".name a").focus();
}

/** What is selected; if nothing is, the row that the keyboard is on. */
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
  const link = event.target.closest("#list .pill, #list .paging a, #list .chip, #none a[href='/']");
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
onKeys("k", "Job before", () => step(-1));
onKeys("x", "Select this job, or not", pickHere);
onKeys("v", "Compare what is selected", compare);
onKeys("c", "Cancel what is selected", () => actHere("cancel"));
onKeys("r", "Retry what is selected", () => actHere("retry"));
onKeys("#", "Delete what is selected", () => actHere("delete"));
onKeys("n", "New job", () => (location.href = "/submit"));
count();
listen();
