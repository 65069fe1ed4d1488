// Names of datasets for what scripts render: a spec has the id of an uploaded one.

import { get } from "./http.js";

const UPLOADED = /^ds_/;
let names = new Map();

/** Load the names that these specs need and that are not known yet. */
export async function loadNames(specs, signal) {
  if (!specs.some(({ dataset }) => UPLOADED.test(dataset) && !names.has(dataset))) return;
  const { data } = await get("/v1/datasets", { signal });
  names = new Map(data.map(({ id, name }) => [id, name]));
  for (const { dataset } of specs) if (!names.has(dataset)) names.set(dataset, dataset); // deleted: asked for only once
}

/** The name of a dataset; its id where it has been deleted, or is built in. */
export const nameOf = (dataset) => names.get(dataset) ?? dataset;
