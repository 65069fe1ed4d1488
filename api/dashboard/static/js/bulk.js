// One action on many jobs: by their ids, or on all that a view of the list would show.

import { newKey, post } from "./http.js";

const PLAIN = ["name", "owner", "created_after", "created_before"];

/** Of the jobs with these ids, {data, succeeded}: an outcome each. */
export const steer = (action, ids) => post("/v1/jobs/bulk", { action, ids }, { key: newKey() });

/** Of all jobs that match and that the action suits, a thousand a call. */
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

/** A query of the list, as `?status=failed&label.team=vision`, as the filter of a bulk call. */
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
