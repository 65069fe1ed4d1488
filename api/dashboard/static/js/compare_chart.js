// The curves of several jobs in one chart, and the difference of two on a second axis.

import { AXES } from "./compare_address.js";
import { difference } from "./comparison.js";
import { Curve } from "./curve.js";
import { number } from "./format.js";
import { along, smooth, thin } from "./points.js";

const DRAWN = 1000; // points of a line
const COLOURS = 8; // then they come again, dotted

export const colourOf = (place) => (place % COLOURS) + 1;
export const isDotted = (place) => place >= COLOURS;

export class CompareChart {
  constructor(place) {
    const legend = !matchMedia("(max-width: 640px)").matches; // of twelve names it would take a phone's whole chart; the table has the colours
    this.curve = new Curve(place, { name: "Curves of the compared jobs", y2FromZero: true, legend });
  }

  /** Draw `entries` named by `names`; what is said of the difference of the pair, "" where there is none. */
  async show(entries, names, { metric, axis, log, smoothing }, pair) {
    const lines = entries.map((entry, i) => line(entry, names[i], { metric, axis, smoothing }, pair));
    const [one, other] = (pair ?? []).map((id) => entries.find((entry) => entry.id === id));
    const apart = one && other && difference(pointsOf(one, metric), pointsOf(other, metric));
    if (apart) lines.push(differenceLine(apart, one, axis));
    await this.curve.scale({ log, x: AXES[axis], y: metric, y2: apart ? `difference of ${metric}` : null });
    await this.curve.show(lines);
    return one && other
      ? words(
          apart,
          [one, other].map((entry) => names[entries.indexOf(entry)]),
          metric,
        )
      : "";
  }

  png = () => this.curve.png();
}

const pointsOf = ({ curves }, metric) => curves[metric] ?? [];

function line(entry, name, { metric, axis, smoothing }, pair) {
  const points = thin(smooth(pointsOf(entry, metric), smoothing), DRAWN);
  const below = pair?.[1] === entry.id; // of two that may be one line the second is broad and pale, so that both are seen
  const above = pair?.[0] === entry.id;
  return {
    name,
    ...laidOut(points, entry, axis),
    colour: colourOf(entry.place),
    dots: points.length < 40,
    dash: above ? "dash" : isDotted(entry.place) ? "dot" : "solid",
    ...(below && { width: 6, faint: true }),
  };
}

function differenceLine(apart, entry, axis) {
  return {
    name: "difference",
    right: true,
    colour: COLOURS,
    dash: "dot",
    width: 1.25,
    ...laidOut(thin(apart.points, DRAWN), entry, axis),
  };
}

function laidOut(points, entry, axis) {
  const at = along(axis, entry.job, entry.curves.examples_per_second);
  return { x: points.map(([step]) => at(step)), y: points.map(([, , value]) => value) };
}

function words(apart, [one, other], metric) {
  if (!apart) return `${one} and ${other} have no step of ${metric} in common.`;
  const steps = apart.points.length === 1 ? "the one step" : `the ${number(apart.points.length)} steps`;
  if (apart.largest === 0)
    return `${one} and ${other}: no difference, to the bit, at ${steps} of ${metric} that both have.`;
  return `${one} and ${other}: largest difference ${number(apart.largest)} at step ${number(apart.step)}, of ${steps} of ${metric} that both have.`;
}
