// Points [step, epoch, value] of a curve, prepared for a chart: downsampled, smoothed, mapped to an axis.

/** At most `most` points: the first, the last, and the lowest and highest of each interval, as the API downsamples. */
export function thin(points, most) {
  if (points.length <= most) return points;
  const inner = points.slice(1, -1);
  const stretches = Math.floor((most - 2) / 2);
  const kept = [points[0]];
  for (let i = 0; i < stretches; i += 1) {
    const from = Math.floor((i * inner.length) / stretches);
    const to = Math.floor(((i + 1) * inner.length) / stretches);
    let [low, high] = [from, from];
    for (let at = from; at < to; at += 1) {
      if (inner[at][2] < inner[low][2]) low = at;
      if (inner[at][2] > inner[high][2]) high = at;
    }
    for (const at of new Set([Math.min(low, high), Math.max(low, high)])) kept.push(inner[at]);
  }
  return [...kept, points.at(-1)];
}

/**
 * Exponential moving mean: each point has `weight` times the weight of the next one (0: no smoothing). It is divided by
 * the sum of the weights, so that it is not biased towards 0 at the start.
 */
export function smooth(points, weight) {
  if (!weight) return points;
  let [sum, weights] = [0, 0];
  return points.map(([step, epoch, value]) => {
    if (value === null) return [step, epoch, null]; // a gap stays a gap
    sum = sum * weight + value;
    weights = weights * weight + 1;
    return [step, epoch, sum / weights];
  });
}

/** A function from step to position on the axis: `step`, `epoch` or `seconds`. `speeds`: the points of examples_per_second. */
export function along(axis, job, speeds = []) {
  if (axis === "epoch") return inEpochs(job);
  if (axis === "seconds") return inSeconds(job, speeds);
  return (step) => step;
}

function inEpochs({ progress }) {
  const perEpoch = progress ? progress.total_steps / progress.epochs : 1;
  return (step) => step / perEpoch;
}

/**
 * Seconds of training, without validation, pauses and waiting: each epoch takes its number of examples divided by its
 * speed. For a job that has ended, the sum is scaled to its `training_seconds`; for one that runs, the last batch of an
 * epoch counts as a full one. After the last complete epoch its speed is extrapolated.
 */
function inSeconds(job, speeds) {
  if (!job.progress || !speeds.length) return () => null;
  const perEpoch = job.progress.total_steps / job.progress.epochs;
  const relative = speeds.map(([, , speed]) => 1 / speed);
  const total = relative.reduce((sum, one) => sum + one, 0);
  const examples = job.result?.training_seconds ? job.result.training_seconds / total : perEpoch * job.spec.batch_size;
  const ends = [0];
  for (const one of relative) ends.push(ends.at(-1) + one * examples);
  return (step) => {
    const epochs = step / perEpoch;
    const whole = Math.min(Math.floor(epochs), relative.length - 1);
    return ends[whole] + (epochs - whole) * relative[whole] * examples;
  };
}
