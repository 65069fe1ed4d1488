// The workers on the System page: host, state, devices and running jobs.

import { age } from "./age.js";
import { element } from "./dialog.js";
import { number, size } from "./format.js";
import { root } from "./root.js";
import { showRows } from "./rows.js";

const at = (id) => document.getElementById(id);

/** `running`: the newest hundred running jobs; for other jobs of a worker only the id is shown. */
export function showWorkers(workers, running) {
  at("nobody").hidden = workers.length > 0;
  at("workers").closest(".scroll").hidden = !workers.length;
  const jobs = new Map(running.map((job) => [job.id, job]));
  const shown = workers.map(({ seen_at: _, ...worker }) => ({
    ...worker,
    running: worker.running.map((id) => ({
      id,
      name: jobs.get(id)?.name ?? id,
      since: jobs.get(id)?.attempts.at(-1)?.started_at ?? null,
    })),
  }));
  showRows(at("workers").tBodies[0], shown, { key: ({ id }) => id, row: workerRow });
}

function workerRow(worker) {
  const row = element("tr");
  row.append(hostCell(worker), stateCell(worker), devicesCell(worker.devices));
  row.append(element("td", { className: "number" }, `${number(worker.free_slots)} of ${number(worker.slots)}`));
  row.append(jobsCell(worker.running, worker.others_running));
  const since = element("td", { className: "nowrap" });
  since.append(age(worker.started_at));
  row.append(since);
  return row;
}

function hostCell({ host, pid, version }) {
  const cell = element("th", { scope: "row" }, host);
  cell.append(element("div", { className: "muted" }, `process ${pid} · gradq ${version}`));
  return cell;
}

const OUTAGES = {
  store_unavailable: "the artifact store takes no files",
  disk_full: "the disk of its run folders is full",
};

function stateCell({ draining, outage, free_slots: free }) {
  const able = free ? ["available", "succeeded"] : ["busy", "running"];
  const [word, look] = draining ? ["draining", "pausing"] : outage ? ["waiting", "pausing"] : able;
  const cell = element("td");
  cell.append(element("span", { className: `status ${look}` }, word));
  if (draining) cell.append(element("div", { className: "muted" }, "accepts no more jobs"));
  else if (outage) cell.append(element("div", { className: "muted" }, OUTAGES[outage]));
  return cell;
}

/** Equal slots on one line, `2 × cpu`, with the memory that they share; on a host with GPUs the host's memory too. */
function devicesCell({ slots, memory }) {
  const cell = element("td");
  const names = new Set([...slots, ...memory.map(({ device }) => ({ name: device }))].map(({ name }) => name));
  for (const name of names) {
    const count = slots.filter((slot) => slot.name === name).length;
    cell.append(element("div", {}, count > 1 ? `${count} × ${name}` : name));
    cell.append(...memory.filter(({ device }) => device === name).map(memoryBar));
  }
  return cell;
}

function memoryBar({ device, used_bytes: used, total_bytes: total }) {
  const text = `${size(used)} of ${size(total)} in use`;
  const made = element("div", { className: "memory muted" });
  made.append(element("progress", { max: total, value: used, ariaLabel: `memory of ${device}` }), text);
  return made;
}

/** `others`: number of running jobs of other owners. */
function jobsCell(running, others) {
  const cell = element("td");
  for (const { id, name, since } of running) {
    const line = element("div", { className: "runs" });
    line.append(element("a", { href: `${root}/jobs/${id}` }, name));
    if (since) line.append(" ", element("span", { className: "muted" }, "for "), age(since));
    cell.append(line);
  }
  if (others) cell.append(element("div", { className: "muted" }, `${number(others)} of other owners`));
  if (!running.length && !others) cell.append(element("span", { className: "muted" }, "none"));
  return cell;
}
