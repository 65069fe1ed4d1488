// The job page: follows the job's log and object, and passes changes to the modules that show them.

import { Actions } from "./job-actions.js";
import { Charts } from "./job-charts.js";
import { Log } from "./job-log.js";
import { showMatrix } from "./job-matrix.js";
import { Parts } from "./job-parts.js";
import { showProgress } from "./job-progress.js";
import "./copy.js";
import { moment } from "./format.js";
import { get } from "./http.js";
import { poll } from "./poll.js";
import { root } from "./root.js";
import { followLog } from "./stream.js";

const ASK_MS = 1500;

const main = document.getElementById("job");
const self = main.dataset.self;
const said = document.getElementById("said");
const parts = new Parts(shown);
const log = new Log(`${self}/events`);
const charts = document.getElementById("loss-chart") && new Charts(self);
let cursor = Number(main.dataset.cursor);
let status = main.dataset.status;
let known = null; // the last job object as JSON, without its progress
let asking = null;
let unfollow = null;

/** Poll the job until it has ended; its log comes by a stream at the same time. */
function watch() {
  asking ??= poll(ASK_MS, look);
  asking.now();
}

async function look() {
  let job;
  try {
    job = await get(self);
  } catch (problem) {
    if (problem.status === 404) return gone();
    throw problem;
  }
  charts?.about(job);
  showProgress(job.progress);
  const now = JSON.stringify({ ...job, progress: null });
  const asWritten = known === null && job.terminal && job.status === status; // by the server; an ended job does not change
  if (known !== now && !asWritten) await parts.refresh();
  known = now;
  say(job);
  if (job.terminal) rest();
  else unfollow ??= followLog(`${self}/events`, { after: cursor, onEvent: take, onState: (state) => log.state(state) });
}

/** Stop polling: the job has ended. A retry starts it again. */
function rest() {
  asking?.stop();
  asking = null;
}

function take({ type, id, data }) {
  if (id !== null) cursor = Number(id);
  if (type === "end") {
    unfollow = null;
    return watch();
  }
  log.add(data);
  if (type === "metric") charts?.add(data.data);
  if (type === "status") watch();
}

/** Announce a changed status to screen readers. */
function say(job) {
  if (job.status === status) return;
  status = job.status;
  said.textContent = `Status: ${status}`;
}

function gone() {
  rest();
  unfollow?.();
  document.getElementById("actions").replaceChildren();
  const notice = document.createElement("p");
  notice.className = "notice bad";
  notice.textContent = "This job has been deleted. ";
  const way = document.createElement("a");
  way.href = `${root}/`;
  way.textContent = "All jobs";
  notice.append(way);
  main.querySelector(".notices").replaceChildren(notice);
}

/** Add what scripts write into the parts that the server rendered. */
function shown() {
  for (const time of document.querySelectorAll("time[data-moment]")) time.textContent = moment(time.dateTime);
  charts?.showFigures();
  showMatrix(document.getElementById("matrix"));
}

new Actions(main, self, watch);
shown();
watch();
