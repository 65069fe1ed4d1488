// Comparison of jobs: which spec fields differ, which result is best, how far two curves are apart. No DOM.

/** The fields of a spec as a Map; fields of nested objects have dots: `optimizer.momentum`. A list is one value. */
export function leaves(spec, before = "", found = new Map()) {
  for (const [name, part] of Object.entries(spec)) {
    const isObject = part !== null && typeof part === "object" && !Array.isArray(part);
    if (isObject && Object.keys(part).length) leaves(part, `${before}${name}.`, found);
    else found.set(before + name, part !== null && typeof part === "object" ? JSON.stringify(part) : part);
  }
  return found;
}

/** `[{name, values, equal}]` for each field of the specs, in their order; undefined where a job lacks the field. */
export function specRows(jobs) {
  const specs = jobs.map((job) => leaves(job.spec));
  const names = new Set(specs.flatMap((spec) => [...spec.keys()]));
  names.delete("name"); // usually different, and shown in a column of its own
  return [...names].map((name) => {
    const values = specs.map((spec) => spec.get(name));
    return { name, values, equal: values.every((value) => value === values[0]) };
  });
}

// The compared results; good: 1 if larger is better, -1 if smaller is better, 0 if neither.
export const RESULTS = [
  { name: "test_accuracy", good: 1 },
  { name: "val_accuracy", good: 1 },
  { name: "test_loss", good: -1 },
  { name: "val_loss", good: -1 },
  { name: "train_loss", good: -1 },
  { name: "training_seconds", good: -1 },
  { name: "examples_per_second", good: 1 },
  { name: "parameters", good: 0 },
  { name: "device", good: 0 },
  { name: "weights_sha256", good: 0 },
];

/**
 * `[{name, values, best, equal}]` for each result that at least one job has. `best`: for each job, whether its value is
 * the best; `equal`: the result is neither good nor bad, and the same in all jobs.
 */
export function resultRows(jobs) {
  const rows = RESULTS.map(({ name, good }) => {
    const values = jobs.map((job) => job.result?.[name] ?? null);
    const equal = good === 0 && jobs.length > 1 && values.every((value) => value === values[0]);
    return { name, values, best: bestOf(values, good), equal };
  });
  return rows.filter(({ values }) => values.some((value) => value !== null));
}

/** No value is the best where all are the same, or where there is only one. */
function bestOf(values, good) {
  const numbers = values.filter(Number.isFinite);
  const top = Math.max(...numbers.map((value) => value * good));
  const comparable = good !== 0 && new Set(numbers).size > 1;
  return values.map((value) => comparable && Number.isFinite(value) && value * good === top);
}

// Fields in which two runs may differ and still be compared as manual and autograd.
const BESIDE_GRADIENTS = /^(preset|verify|priority|labels)(\.|$)/;

/** The ids of the first two jobs that differ only in their gradients, the manual one first; null if there are none. */
export function twoWays(jobs) {
  for (const manual of jobs.filter((job) => job.spec.gradients === "manual")) {
    for (const other of jobs.filter((job) => job.spec.gradients === "autograd")) {
      const differing = specRows([manual, other]).filter(({ name, equal }) => !equal && !BESIDE_GRADIENTS.test(name));
      if (differing.length === 1) return [manual.id, other.id];
    }
  }
  return null;
}

/** |one - other| at the common steps: `{points: [[step, epoch, value]], largest, step}`; null if there are none. */
export function difference(one, other) {
  const there = new Map(other.map(([step, , value]) => [step, value]));
  const both = one.filter(([step, , value]) => value !== null && Number.isFinite(there.get(step)));
  if (!both.length) return null;
  const points = both.map(([step, epoch, value]) => [step, epoch, Math.abs(value - there.get(step))]);
  const [step, , largest] = points.reduce((found, point) => (point[2] > found[2] ? point : found));
  return { points, largest, step };
}
