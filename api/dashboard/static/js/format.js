// How scripts write numbers and times. api/dashboard/words.py writes them in the same way: change both together.

const UNITS = ["B", "kB", "MB", "GB", "TB"];
const STEPS = [
  ["s", 60],
  ["min", 60],
  ["h", 24],
  ["d", Infinity],
];
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** 1234567 -> 1 234 567 (thin spaces); 0.0123456 -> 0.01235; null, undefined or not finite -> – */
export function number(value, digits = 4) {
  if (!known(value)) return "–";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value).replace(/\B(?=(\d{3})+$)/g, "\u2009");
  const small = Math.abs(value);
  if (small >= 1e-4 && small < 10 ** digits) return String(Number(value.toPrecision(digits)));
  return Number(value.toPrecision(digits))
    .toExponential()
    .replace(/e([+-])(\d)$/, "e$10$2");
}

/** 0.9731 -> 97.3 % */
export const percent = (value, digits = 1) => (known(value) ? `${(100 * value).toFixed(digits)}\u202f%` : "–");

/** 1234567 -> 1.2 MB */
export function size(value) {
  if (!known(value)) return "–";
  let place = 0;
  while (Math.abs(value) >= 1000 && place < UNITS.length - 1) {
    value /= 1000;
    place += 1;
  }
  return `${value.toFixed(place === 0 || value >= 100 ? 0 : 1)}\u202f${UNITS[place]}`;
}

/** The two largest units: 0.42 s, 7 s, 3 min 5 s, 2 h 7 min, 5 d 3 h */
export function duration(seconds) {
  if (!known(seconds)) return "–";
  if (seconds < 10) return `${Number(Math.max(seconds, 0).toPrecision(2))}\u202fs`;
  let left = Math.round(seconds);
  const parts = [];
  for (const [unit, ofNext] of STEPS) {
    parts.unshift([left % ofNext, unit]);
    left = Math.floor(left / ofNext);
  }
  const first = parts.findIndex(([count]) => count);
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count)
    .map(([count, unit]) => `${count}\u202f${unit}`)
    .join(" ");
}

/** Time since `at`, in the largest unit: now, 7 s, 3 min, 2 h, 5 d */
export function ago(at, now = Date.now()) {
  const seconds = (now - new Date(at)) / 1000;
  return seconds < 1 ? "now" : duration(Math.floor(seconds)).split(" ")[0];
}

/** A time in the time zone and locale of the browser. */
export const moment = (at) => new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
