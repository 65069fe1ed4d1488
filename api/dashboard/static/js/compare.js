// The Compare page: up to twelve jobs side by side, updated while they run.

import { isAway } from "./away.js";
import { readAddress, writeAddress } from "./compare_address.js";
import { CompareChart } from "./compare_chart.js";
import { showTable, tableAsCsv } from "./compare_table.js";
import { Compared, MOST, seriesOf } from "./compared.js";
import { twoWays } from "./comparison.js";
import { save } from "./csv.js";
import { element, toast } from "./dialog.js";
import { JobFinder } from "./job_finder.js";
import { onKeys } from "./keys.js";
import { poll } from "./poll.js";
import { showRows } from "./rows.js";

const POLL_MS = 2000;

const at = (id) => document.getElementById(id);
const view = readAddress();
const jobs = new Compared();
const chart = new CompareChart(at("chart"));
const { metric, axis, log, smoothing, one, other } = at("controls").elements;
const weight = at("controls").querySelector("output");

// --- the compared jobs ------------------------------------------------------------------------------------------------

function take(id) {
  if (jobs.ids.includes(id)) return;
  if (!jobs.add(id)) toast(`At most ${MOST} jobs can be compared. Remove one to add ${id}.`, { bad: true });
}

function add({ id, name }) {
  take(id);
  at("news").textContent = jobs.ids.includes(id) ? `${name} was added` : "";
  changed();
}

function remove({ id, job }) {
  jobs.remove(id);
  if (Array.isArray(view.pair) && view.pair.includes(id)) view.pair = "auto";
  at("news").textContent = `${job?.name ?? id} was removed`;
  at("search").focus({ preventScroll: true }); // the pressed button no longer exists
  finder.close();
  changed();
}

/** The two jobs whose difference is drawn: the chosen ones, otherwise the first two that differ only in gradients. */
function pair() {
  if (view.pair === "auto") return twoWays(jobs.there.map(({ job }) => job));
  return view.pair?.every((id) => jobs.find(id)?.job) ? view.pair : null;
}

function changed() {
  view.ids = jobs.ids;
  writeAddress(view);
  show();
  news.now();
}

// --- rendering --------------------------------------------------------------------------------------------------------

function show() {
  const entries = jobs.there;
  const two = pair();
  at("empty").hidden = jobs.entries.length > 0;
  at("comparison").hidden = !entries.length;
  showWrong(jobs.entries.filter(({ wrong }) => wrong));
  if (!entries.length) return;
  showControls(entries, two);
  showTable(at("table"), at("same"), entries, remove);
  if (!entries.every(({ curves }) => seriesOf(view).every((key) => curves[key]))) return; // still loading
  const empty = !entries.some(({ curves }) => curves[view.metric].length);
  at("none").hidden = !empty;
  at("chart").classList.toggle("unfilled", empty);
  chart.show(entries, namesOf(entries), view, two).then(say, (problem) => toast(problem.message, { bad: true }));
}

/** Written only when it differs: each write is read out by screen readers. */
function say(text) {
  if (at("said").textContent !== text) at("said").textContent = text;
}

function showWrong(entries) {
  at("wrong").hidden = !entries.length;
  const shown = entries.map(({ id, wrong }) => ({ id, wrong }));
  showRows(at("wrong"), shown, {
    key: ({ id }) => id,
    row: (item) => {
      const line = element("li", { className: "notice" });
      const button = element("button", { type: "button", className: "quiet" }, "Remove");
      button.addEventListener("click", () => remove(item));
      line.append(element("span", {}, `${item.wrong}.`), button);
      return line;
    },
  });
}

function showControls(entries, two) {
  metric.value = view.metric;
  axis.value = view.axis;
  log.checked = view.log;
  smoothing.value = view.smoothing;
  weight.textContent = view.smoothing;
  at("controls").querySelector(".difference").hidden = entries.length < 2;
  const names = namesOf(entries);
  options(one, [["", "none"], ...entries.map(({ id }, i) => [id, names[i]])], two?.[0] ?? "");
  options(
    other,
    entries.map(({ id }, i) => [id, names[i]]).filter(([id]) => id !== two?.[0]),
    two?.[1] ?? "",
  );
  at("and").hidden = !two;
}

/** Fill a select unless its options are the same already: replacing them would close an open one. */
function options(select, wanted, value) {
  const held = [...select.options].map((option) => [option.value, option.text]);
  if (JSON.stringify(held) !== JSON.stringify(wanted)) {
    select.replaceChildren(...wanted.map(([id, name]) => element("option", { value: id }, name)));
  }
  select.value = value;
}

/** Unique names: the job's name, else with its gradients, else with the end of its id. */
function namesOf(entries) {
  const named = entries.map(({ job }) => job.name);
  const withGradients = entries.map(({ job }) => `${job.name}, ${job.spec.gradients ?? job.kind}`);
  const isOnce = (names, name) => names.filter((other) => other === name).length === 1;
  return entries.map(({ id, job }, i) => {
    if (isOnce(named, named[i])) return job.name;
    return isOnce(withGradients, withGradients[i]) ? withGradients[i] : `${job.name}, …${id.slice(-6)}`;
  });
}

// --- input ------------------------------------------------------------------------------------------------------------

function choose(changes) {
  Object.assign(view, changes);
  changed();
}

metric.addEventListener("change", () => choose({ metric: metric.value }));
axis.addEventListener("change", () => choose({ axis: axis.value }));
log.addEventListener("change", () => choose({ log: log.checked }));
smoothing.addEventListener("input", () => choose({ smoothing: Number(smoothing.value) }));
one.addEventListener("change", () => {
  const second = [other.value, ...jobs.there.map(({ id }) => id)].find((id) => id && id !== one.value);
  choose({ pair: one.value && second ? [one.value, second] : null });
});
other.addEventListener("change", () => choose({ pair: [one.value, other.value] }));
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("png").addEventListener("click", () => chart.png());
at("csv").addEventListener("click", () => save(tableAsCsv(jobs.there), "compare.csv", "text/csv"));
onKeys("/", "Add a job", () => at("search").focus());

const finder = new JobFinder(at("finder"), { onPick: add, isTaken: (id) => jobs.ids.includes(id) });

for (const id of view.ids) take(id);
view.ids = jobs.ids;
if (jobs.ids.length) at("empty").hidden = true;

const news = poll(
  POLL_MS,
  async (signal) => {
    const before = pair();
    const isNew = await jobs.read(view, before, signal);
    const isPair = String(pair()) !== String(before); // depends on specs that have only now been loaded
    if (isPair) await jobs.read(view, pair(), signal);
    if (isNew || isPair) show();
  },
  (state, problem) => state === "live" || isAway(problem),
);
