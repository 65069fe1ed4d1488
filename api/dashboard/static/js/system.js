// The System page: service, workers, queues and datasets; polled every few seconds.

import "./copy.js";
import { age } from "./age.js";
import { isAway } from "./away.js";
import { element, withCode } from "./dialog.js";
import { number } from "./format.js";
import { get } from "./http.js";
import { poll } from "./poll.js";
import { showRows } from "./rows.js";
import { showDatasets } from "./system_datasets.js";
import { prepareUpload } from "./system_upload.js";
import { showWorkers } from "./system_workers.js";

const POLL_MS = 3000;
const RUNNING = "/v1/jobs?status=running,cancelling,pausing&limit=100";

const at = (id) => document.getElementById(id);

async function look(signal) {
  const state = await readiness(signal);
  showService(state);
  if (state.database !== "ok") throw state;
  const asked = ["/v1/workers", "/v1/queues", "/v1/datasets", RUNNING].map((address) => get(address, { signal }));
  const [workers, queues, datasets, running] = (await Promise.all(asked)).map(({ data }) => data);
  showWorkers(workers, running);
  showQueues(queues);
  showDatasets(datasets, news.now);
}

/** The body of /readyz; that of a service that is not ready is a problem with the same members. */
async function readiness(signal) {
  try {
    return await get("/readyz", { signal });
  } catch (problem) {
    if (problem.database) return problem;
    throw problem;
  }
}

function showService({ ready, database, broker }) {
  state(at("database"), database === "ok", database);
  state(at("broker"), broker === "ok", broker, "Jobs are still stored; workers find them by polling the database.");
  state(at("ready"), ready, ready ? "yes" : "no");
}

function state(place, good, word, otherwise = "") {
  if (place.textContent.startsWith(word)) return;
  place.replaceChildren(element("span", { className: `status ${good ? "succeeded" : "failed"}` }, word));
  if (!good && otherwise) place.append(element("p", { className: "help muted" }, otherwise));
}

function showQueues(queues) {
  const table = at("queues");
  table.closest(".scroll").hidden = !queues.length;
  table.closest("section").querySelector(".empty").hidden = queues.length > 0;
  showRows(table.tBodies[0], queues, { key: ({ name }) => name, row: queueRow });
}

function queueRow(queue) {
  const row = element("tr");
  row.append(element("th", { scope: "row" }, queue.name));
  for (const count of [queue.queued, queue.running, queue.paused])
    row.append(element("td", { className: "number" }, number(count)));
  row.append(element("td", { className: "number" }, `${number(queue.free_slots)} of ${number(queue.slots)}`));
  const oldest = element("td");
  oldest.append(queue.oldest_queued_at ? age(queue.oldest_queued_at) : "–");
  row.append(oldest, reasonsCell(queue.reasons));
  return row;
}

function reasonsCell(reasons) {
  const cell = element("td", { className: "reasons" });
  for (const { detail, jobs } of reasons) {
    const line = element("div");
    line.append(`${number(jobs)} ${jobs === 1 ? "job" : "jobs"}: `, ...withCode(detail));
    cell.append(line);
  }
  if (!reasons.length) cell.append("–");
  return cell;
}

const news = poll(POLL_MS, look, (state, problem) => state === "live" || isAway(problem));
if (at("upload")) prepareUpload(at("upload"), news.now);
