// The compared jobs and the settings of the view, in the query string, so that a view can be shared.

export const METRICS = ["train_loss", "val_loss", "val_accuracy", "batch_loss", "lr", "examples_per_second"];
export const AXES = { step: "step", epoch: "epoch", seconds: "seconds of training" };
const JOB_ID = /^job_[0-9a-f]{32}$/;

/** `pair`: the ids of the two jobs whose difference is drawn, null for none, "auto" until two are chosen. */
export function readAddress(text = location.search) {
  const query = new URLSearchParams(text);
  const ids = [
    ...new Set(
      query
        .getAll("job")
        .flatMap((part) => part.split(","))
        .map((id) => id.trim())
        .filter(Boolean),
    ),
  ];
  const pair = query.get("difference");
  const weight = Number(query.get("smoothing"));
  return {
    ids,
    metric: METRICS.includes(query.get("curve")) ? query.get("curve") : "train_loss",
    axis: Object.hasOwn(AXES, query.get("across")) ? query.get("across") : "step",
    log: query.get("scale") === "log",
    smoothing: weight > 0 && weight < 1 ? weight : 0,
    pair: pair === "none" ? null : pair?.split(",").length === 2 ? pair.split(",") : "auto",
  };
}

/** The inverse of readAddress; defaults are left out. */
export function writeAddress({ ids, metric, axis, log, smoothing, pair }) {
  const query = new URLSearchParams(ids.map((id) => ["job", id]));
  if (metric !== "train_loss") query.set("curve", metric);
  if (axis !== "step") query.set("across", axis);
  if (log) query.set("scale", "log");
  if (smoothing) query.set("smoothing", smoothing);
  if (pair !== "auto") query.set("difference", pair === null ? "none" : pair.join(","));
  const text = query.toString().replaceAll("%2C", ",");
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}

export const isJobId = (id) => JOB_ID.test(id);
