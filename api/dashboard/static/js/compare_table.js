// The table of the Compare page: one row per job; columns for the spec fields that differ, then for the results. Fields
// that are the same in all jobs are in a folded list.

import { colourOf, isDotted } from "./compare_chart.js";
import { resultRows, specRows } from "./comparison.js";
import { toCsv } from "./csv.js";
import { nameOf } from "./dataset_names.js";
import { element } from "./dialog.js";
import { duration, number, percent } from "./format.js";
import { root } from "./root.js";
import { showRows } from "./rows.js";

const HASH_LENGTH = 8;

/** Fill `table` and the folded list `same`. `onRemove({id, job})` is called when the button of a row is pressed. */
export function showTable(table, same, entries, onRemove) {
  const jobs = entries.map(({ job }) => job);
  const specs = specRows(jobs);
  const differing = specs.filter(({ equal }) => !equal);
  const facts = resultRows(jobs);
  const results = facts.filter(({ equal }) => !equal);
  table.tHead.replaceChildren(...heads(differing, results));
  const shown = entries.map(({ id, place, job }, i) => ({
    id,
    place,
    job,
    spec: differing.map(({ name, values }) => specText(name, values[i])),
    results: results.map(({ name, values, best }) => ({ name, value: values[i], best: best[i] })),
  }));
  showRows(table.tBodies[0], shown, {
    key: ({ id }) => id,
    row: (item) => {
      const row = element("tr");
      row.append(nameCell(item), statusCell(item.job), ...item.spec.map(cell), ...item.results.map(resultCell));
      row.append(removeCell(item, onRemove));
      return row;
    },
  });
  showSame(same, jobs.length > 1 ? [...specs, ...facts].filter(({ equal }) => equal) : []);
}

/** The same table as CSV, with numbers that are not rounded. */
export function tableAsCsv(entries) {
  const jobs = entries.map(({ job }) => job);
  const columns = [...specRows(jobs).filter(({ equal }) => !equal), ...resultRows(jobs)];
  return toCsv([
    ["id", "name", "status", ...columns.map(({ name }) => name)],
    ...jobs.map((job, i) => [job.id, job.name, job.status, ...columns.map(({ values }) => values[i])]),
  ]);
}

function heads(differing, results) {
  const groups = element("tr", { className: "groups" });
  groups.append(element("td", { colSpan: 2 }));
  if (differing.length) groups.append(element("th", { colSpan: differing.length, scope: "colgroup" }, "spec"));
  if (results.length) groups.append(element("th", { colSpan: results.length, scope: "colgroup" }, "result"));
  groups.append(element("td"));
  const names = element("tr");
  for (const name of ["job", "status", ...differing.map((row) => row.name)]) names.append(head(name));
  for (const { name } of results) names.append(head(name, isNumber(name)));
  names.append(element("td"));
  return [groups, names];
}

const head = (name, isRight = false) =>
  element(
    "th",
    { scope: "col", className: isRight ? "number" : "" },
    name.replace("weights_sha256", "weights").replaceAll("_", " "),
  );
const isNumber = (name) => !["device", "weights_sha256"].includes(name);

function nameCell({ job, place }) {
  const made = element("th", { scope: "row", className: "job" });
  const swatch = element("span", { className: isDotted(place) ? "swatch dotted" : "swatch" });
  swatch.style.borderColor = `var(--curve-${colourOf(place)})`;
  made.append(swatch, element("a", { href: `${root}/jobs/${job.id}`, title: job.id }, job.name));
  return made;
}

function statusCell({ status, progress, queue, status_reason: reason }) {
  const made = element("td", { className: "nowrap" });
  made.append(
    element("span", { className: `status ${status}`, title: (reason ?? queue?.reason)?.detail ?? "" }, status),
  );
  if (status === "running" && progress)
    made.append(element("span", { className: "muted" }, ` ${number(progress.percent)}\u202f%`));
  return made;
}

const cell = (text) => element("td", {}, text);

function specText(name, value) {
  if (name === "dataset") return nameOf(value);
  if (value === undefined || value === null) return "–";
  return Number.isFinite(value) ? String(value) : `${value}`.replaceAll('"', "");
}

function resultCell({ name, value, best }) {
  const made = element("td", { className: isNumber(name) ? "number" : "" });
  const text = resultText(name, value);
  if (name === "weights_sha256") made.append(element("code", { title: value ?? "" }, text));
  else if (best)
    made.append(
      element("span", { className: "best", role: "img", ariaLabel: "best", title: "best of the compared jobs" }, "★"),
      " ",
      element("strong", {}, text),
    );
  else made.append(text);
  return made;
}

function resultText(name, value) {
  if (value === null) return "–";
  if (name.endsWith("accuracy")) return percent(value, 2);
  if (name === "training_seconds") return duration(value);
  if (name === "weights_sha256") return value.slice(0, HASH_LENGTH);
  if (name === "examples_per_second") return number(Math.round(value));
  return typeof value === "number" ? number(value, 5) : value;
}

function removeCell(item, onRemove) {
  const made = element("td");
  const button = element(
    "button",
    { type: "button", className: "quiet", ariaLabel: `Remove ${item.job.name}`, title: "Remove" },
    "×",
  );
  button.addEventListener("click", () => onRemove(item));
  made.append(button);
  return made;
}

function showSame(same, rows) {
  same.hidden = !rows.length;
  same.querySelector("summary").textContent =
    rows.length === 1 ? "1 field is the same in all jobs" : `${rows.length} fields are the same in all jobs`;
  same.querySelector("dl").replaceChildren(
    ...rows.map(({ name, values }) => {
      const pair = element("div");
      pair.append(element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, specText(name, values[0])));
      return pair;
    }),
  );
}
