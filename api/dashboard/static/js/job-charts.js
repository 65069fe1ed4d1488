// The two charts of a job: losses on the left; accuracy, learning rate or speed on the right. The points are loaded once,
// later ones come one by one from the log stream.

import { save } from "./csv.js";
import { Curve } from "./curve.js";
import { toast } from "./dialog.js";
import { number, percent } from "./format.js";
import { get, request } from "./http.js";
import { showArticle } from "./job-article.js";
import { sketch } from "./job-sketch.js";
import { onKeys } from "./keys.js";
import { along, smooth, thin } from "./points.js";

const MOST = 3000; // points per line in memory
const DRAWN_OF = 1500; // points per line that are kept when there are more than MOST
const PAINT_MS = 200;
const NOT_YET = "No points yet. The first is written after 50 steps, or at the end of the first epoch.";
const NONE = "No points: the job ended before the first was written.";
const NO_SUCH = "This job has no points of this curve.";
const NO_SUCH_YET = "This curve has no points yet.";
const AXES = { step: "step", epoch: "epoch" };
const LOSSES = [
  { metric: "batch_loss", name: "batch loss", colour: 8, width: 1 },
  { metric: "train_loss", name: "training loss", colour: 1 },
  { metric: "val_loss", name: "validation loss", colour: 2 },
  { metric: "test_loss", name: "test loss", colour: 4 },
];
const RIGHT = {
  accuracy: [
    { metric: "val_accuracy", name: "validation accuracy", colour: 3 },
    { metric: "test_accuracy", name: "test accuracy", colour: 4 },
  ],
  lr: [{ metric: "lr", name: "learning rate", colour: 5 }],
  examples_per_second: [{ metric: "examples_per_second", name: "examples per second", colour: 6 }],
};
const WRITE = {
  val_accuracy: (value) => percent(value, 2),
  test_accuracy: (value) => percent(value, 2),
  examples_per_second: (value) => number(Number(value.toPrecision(3))),
};

export class Charts {
  constructor(self) {
    this.self = self;
    this.series = {};
    this.early = []; // points from the stream that arrive before the others are loaded
    this.loss = new Curve(document.getElementById("loss-chart"), { name: "Loss", x: "step", y: "loss" });
    this.right = new Curve(document.getElementById("right-chart"), { name: "Accuracy", x: "step", y: "accuracy" });
    this.options = { log: false, axis: "step", right: "accuracy", smoothing: 0 };
    this.says = document.getElementById("curves-state");
    this.listen();
    this.load();
  }

  async load() {
    this.says.textContent = "Loading the points …";
    try {
      this.series = (await get(`${this.self}/metrics`)).series;
    } catch (problem) {
      this.says.textContent = problem.message;
      return;
    }
    const { early } = this;
    this.early = null;
    early.forEach((point) => this.add(point));
    const sketches = [
      sketch(
        this.loss.place,
        LOSSES.flatMap((kind) => this.lines(kind)),
      ),
      sketch(
        this.right.place,
        RIGHT.accuracy.flatMap((kind) => this.lines(kind)),
      ),
    ];
    await painted(); // before plotly, which blocks the page for most of a second
    await this.paint();
    sketches.forEach((remove) => remove());
  }

  /** Add a point from the log; a point whose step is known already is ignored. */
  add(point) {
    if (this.early) return void this.early.push(point);
    for (const [metric, value] of Object.entries(point.metrics)) {
      this.series[metric] ??= [];
      const points = this.series[metric];
      if (points.length && points.at(-1)[0] >= point.step) continue;
      points.push([point.step, point.epoch, value]);
      if (points.length > MOST) this.series[metric] = thin(points, DRAWN_OF);
    }
    this.paintSoon();
  }

  /** Take the current job object: it has the steps per epoch, and whether more points can follow. */
  about(job) {
    const news = (!this.job?.progress && job.progress) || this.job?.terminal !== job.terminal;
    this.job = job;
    if (news) this.paintSoon();
  }

  set(options) {
    Object.assign(this.options, options);
    return this.paint();
  }

  paintSoon() {
    this.timer ??= setTimeout(() => this.paint(), PAINT_MS);
  }

  async paint() {
    clearTimeout(this.timer);
    this.timer = null;
    this.showFigures();
    if (this.early) return;
    const { log, axis, right } = this.options;
    const empty = !Object.values(this.series).some((points) => points.length);
    this.says.textContent = empty ? (this.job?.terminal ? NONE : NOT_YET) : "";
    document.querySelector(".charts").hidden = empty;
    const name = document.querySelector(`#right-metric [value="${right}"]`).textContent;
    this.right.name = name;
    try {
      await Promise.all([
        this.draw(this.loss, LOSSES, { log, x: AXES[axis] }),
        this.draw(this.right, RIGHT[right], { x: AXES[axis], y: name }),
      ]);
    } catch (error) {
      this.says.textContent = error.message;
    }
  }

  async draw(curve, kinds, scale) {
    const lines = kinds.flatMap((kind) => this.lines(kind));
    if (curve === this.right && this.options.right === "accuracy") lines.push(...this.articleLine());
    curve.place.setAttribute("aria-label", `${curve.name}, chart. ${this.words(kinds)}`);
    const none = !lines.length;
    const side = curve.place.parentElement;
    for (const part of side.children) part.hidden = part.matches(".none") ? !none : none;
    if (none) side.querySelector(".none").textContent = this.job?.terminal ? NO_SUCH : NO_SUCH_YET;
    curve.lines = lines; // drawn by scale(), so that the chart is not drawn twice
    await curve.scale(scale);
  }

  /** The line of a metric; if smoothed, the raw points of `batch_loss` are drawn pale behind it. */
  lines({ metric, name, colour, width }) {
    const points = this.series[metric] ?? [];
    if (!points.some(([, , value]) => value !== null)) return []; // a loss that diverged has no value
    const { smoothing } = this.options;
    const line = (of, more) => ({
      name,
      colour,
      ...(width && { width }),
      dots: of.length < 30,
      ...this.laidOut(of),
      ...more,
    });
    if (!smoothing || points.length < 3) return [line(points)];
    const raw = metric === "batch_loss" ? [line(points, { faint: true, dots: false })] : [];
    return [...raw, line(smooth(points, smoothing), { name: `${name}, smoothed` })];
  }

  articleLine() {
    const theirs = this.job?.article?.val_accuracy;
    const perEpoch = this.stepsPerEpoch();
    if (!theirs || !perEpoch) return [];
    const points = theirs.map((value, place) => [(place + 1) * perEpoch, place + 1, value]);
    return [{ name: "article", colour: 8, dash: "dot", dots: points.length < 30, ...this.laidOut(points) }];
  }

  stepsPerEpoch = () => this.job?.progress && this.job.progress.total_steps / this.job.progress.epochs;

  laidOut(points) {
    const at = along(this.options.axis, this.job ?? { progress: null });
    return { x: points.map(([step]) => at(step)), y: points.map(([, , value]) => value) };
  }

  words(kinds) {
    const last = kinds
      .map(({ metric, name }) => [name, metric, this.series[metric]?.at(-1)])
      .filter(([, , point]) => point);
    return (
      last.map(([name, metric, [step, , value]]) => `${name} ${write(metric, value)} at step ${step}`).join("; ") ||
      "No points yet."
    );
  }

  /** The last points, until there is a result; and the comparison with the article. */
  showFigures() {
    for (const place of document.querySelectorAll("[data-last]")) {
      const point = this.series[place.dataset.last]?.at(-1);
      if (point) place.textContent = write(place.dataset.last, point[2]);
    }
    showArticle(document.getElementById("article"), this.series);
  }

  /** Save all points, which the service writes as CSV. */
  async csv() {
    try {
      const answer = await request(`${this.self}/metrics`, { headers: { Accept: "text/csv" } });
      save(await answer.text(), "metrics.csv", "text/csv");
    } catch (problem) {
      toast(problem.message, { bad: true });
    }
  }

  listen() {
    const [log, axis, right, smoothing] = ["log-scale", "along", "right-metric", "smoothing"].map((id) =>
      document.getElementById(id),
    );
    log.addEventListener("click", () => {
      log.ariaPressed = String(log.ariaPressed !== "true");
      this.set({ log: log.ariaPressed === "true" });
    });
    axis.addEventListener("change", () => this.set({ axis: axis.value }));
    right.addEventListener("change", () => this.set({ right: right.value }));
    smoothing.addEventListener("input", () => {
      document.getElementById("smoothing-says").textContent = Number(smoothing.value) ? smoothing.value : "off";
      this.options.smoothing = Number(smoothing.value);
      this.paintSoon();
    });
    for (const button of document.querySelectorAll("[data-png]"))
      button.addEventListener("click", () => this[button.dataset.png].png());
    document.getElementById("csv").addEventListener("click", () => this.csv());
    onKeys("l", "Loss on a logarithmic scale", () => log.click());
  }
}

/** Resolves after the next frame, or after 100 ms: a hidden page has no frames. */
function painted() {
  return new Promise((done) => {
    requestAnimationFrame(() => setTimeout(done));
    setTimeout(done, 100);
  });
}

const write = (metric, value) => (WRITE[metric] ?? number)(value);
