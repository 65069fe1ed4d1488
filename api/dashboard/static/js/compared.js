// The compared jobs as loaded from the API: each with its place, its curves and its error.

import { isJobId } from "./compare_address.js";
import { loadNames } from "./dataset_names.js";
import { get } from "./http.js";

export const MOST = 12;
const POINTS = 1000; // of a curve that is only drawn; the two that are subtracted are loaded completely
const WHOLE = 1_000_000;

/** The series that a view draws, or needs for its axis. */
export const seriesOf = ({ metric, axis }) => [
  ...new Set(axis === "seconds" ? [metric, "examples_per_second"] : [metric]),
];

export class Compared {
  constructor() {
    this.entries = [];
  }

  get ids() {
    return this.entries.map(({ id }) => id);
  }

  /** The entries whose job has been loaded. */
  get there() {
    return this.entries.filter(({ job }) => job);
  }

  /** Add a job; false if it is there already or all places are taken. The place determines the colour of the job. */
  add(id) {
    if (this.ids.includes(id) || this.entries.length >= MOST) return false;
    const taken = new Set(this.entries.map(({ place }) => place));
    let place = 0;
    while (taken.has(place)) place += 1;
    this.entries.push({
      id,
      place,
      job: null,
      wrong: isJobId(id) ? null : `${id} is not a job id`,
      curves: {},
      asked: "",
    });
    return true;
  }

  remove(id) {
    this.entries = this.entries.filter((entry) => entry.id !== id);
  }

  find(id) {
    return this.entries.find((entry) => entry.id === id);
  }

  /**
   * Load the jobs and curves of `view` that may have changed, for the jobs of `pair` every point. Resolves to whether
   * anything has changed.
   */
  async read(view, pair, signal) {
    const asked = this.entries.filter(({ wrong }) => !wrong);
    const changed = await Promise.all(
      asked.map((entry) => this.#read(entry, seriesOf(view), pair?.includes(entry.id) ?? false, signal)),
    );
    await loadNames(
      this.there.map(({ job }) => job.spec),
      signal,
    );
    return changed.some(Boolean);
  }

  async #read(entry, keys, whole, signal) {
    try {
      const before = entry.job;
      if (!before?.terminal) entry.job = await get(`/v1/jobs/${entry.id}`, { signal });
      const asked = [keys, whole, entry.job.status, entry.job.progress?.step].join();
      const changed = JSON.stringify(before) !== JSON.stringify(entry.job);
      if (asked === entry.asked) return changed;
      const { series } = await get(`/v1/jobs/${entry.id}/metrics?keys=${keys}&max_points=${whole ? WHOLE : POINTS}`, {
        signal,
      });
      Object.assign(entry.curves, series);
      entry.asked = asked;
      return true;
    } catch (problem) {
      if (problem.status !== 404) throw problem;
      const name = entry.job ? `“${entry.job.name}” (${entry.id})` : entry.id;
      Object.assign(entry, {
        wrong: `${name} was not found: it was deleted, or belongs to another service`,
        job: null,
        curves: {},
      });
      return true;
    }
  }
}
