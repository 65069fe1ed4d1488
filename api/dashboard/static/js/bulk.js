// One action on many jobs: by their ids, or on all jobs that match a filter of the list.

import { newKey, post } from "./http.js";

const PLAIN = ["name", "owner", "created_after", "created_before"];

/** Resolves to {data, succeeded}: one outcome per job, and the number of those that succeeded. */
export const steer = (action, ids) => post("/v1/jobs/bulk", { action, ids }, { key: newKey() });

/** The same for all jobs that match the filter and allow the action; a call covers up to a thousand. */
export async function steerAll(action, filter) {
  const all = { data: [], succeeded: 0 };
  for (let after; ; ) {
    const answer = await post(
      "/v1/jobs/bulk",
      { action, filter: { ...filter, ...(after && { after }) } },
      { key: newKey() },
    );
    all.data.push(...answer.data);
    all.succeeded += answer.succeeded;
    if (!answer.has_more) return all;
    after = answer.last_id;
  }
}

/** The query string of the list, as `?status=failed&label.team=vision`, as the filter of a bulk call. */
export function filterOf(search) {
  const query = new URLSearchParams(search);
  const filter = { labels: {} };
  for (const [name, value] of query) {
    if (PLAIN.includes(name)) filter[name] = value;
    if (name === "status") filter.status = value.split(",");
    if (name.startsWith("label.")) filter.labels[name.slice("label.".length)] = value;
  }
  return filter;
}
