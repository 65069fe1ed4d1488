// The progress of the job, in the same format as in _job_head.html.

import { duration, number } from "./format.js";

export function showProgress(progress) {
  const bar = document.getElementById("percent");
  if (!bar || !progress) return;
  bar.value = progress.percent;
  const words = {
    share: `${progress.percent.toFixed(1)}\u202f%`,
    epoch: `epoch ${number(progress.epoch)} of ${number(progress.epochs)}`,
    step: `step ${number(progress.step)} of ${number(progress.total_steps)}`,
    speed: progress.examples_per_second
      ? `${number(Number(progress.examples_per_second.toPrecision(3)))} examples/s`
      : "",
    left: progress.eta_seconds === null ? "" : `${duration(progress.eta_seconds)} left`,
  };
  for (const [name, text] of Object.entries(words)) document.querySelector(`[data-live="${name}"]`).textContent = text;
}
