// The curves of several jobs in one chart, and the difference of two on a second axis.

import { AXES } from "./compare_address.js";
import { difference } from "./comparison.js";
import { Curve } from "./curve.js";
import { number } from "./format.js";
import { along, smooth, thin } from "./points.js";

const DRAWN = 1000; // points of a line
const COLOURS = 8; // later lines reuse them, dotted

export const colourOf = (place) => (place % COLOURS) + 1;
export const isDotted = (place) => place >= COLOURS;

export class CompareChart {
  constructor(place) {
    // on a phone, a legend of twelve names would fill the whole chart; the table shows the colours too
    const legend = !matchMedia("(max-width: 640px)").matches;
    this.curve = new Curve(place, { name: "Curves of the compared jobs", y2FromZero: true, legend });
  }

  /** Draw `entries` with these `names`. Resolves to a text about the difference of the pair, "" if there is no pair. */
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
  // the lines of a pair may coincide: the second is wide and pale, so that both are visible
  const below = pair?.[1] === entry.id;
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
  if (!apart) return `${one} and ${other} have no common step of ${metric}.`;
  const steps = apart.points.length === 1 ? "1 common step" : `${number(apart.points.length)} common steps`;
  if (apart.largest === 0) return `${one} and ${other}: bit for bit the same at ${steps} of ${metric}.`;
  return `${one} and ${other}: largest difference ${number(apart.largest)} at step ${number(apart.step)}, over ${steps} of ${metric}.`;
}
