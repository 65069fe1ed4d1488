// Turns a drawing into an image like those that a model was trained on: with the size, position and line width of its
// dataset. Pixels are from 0 (black) to `white`, in the grey levels of those images: fractions where white is 1.

import { trace } from "./pad.js";

const LEAST = 0.08; // of the pad's side: a smaller drawing is not enlarged to the full size of a digit

/** Rows of pixels, height × width. `manner`: `mnist` or `digits`. `strokes`: those of Pad, at least one. */
export const digitise = (strokes, { manner, height, width, white }) => MANNERS[manner](strokes, height, width, white);

export const HOW = {
  mnist: "Prepared like MNIST: fitted into 20 of 28 pixels, then shifted so that the centre of mass is in the middle.",
  digits:
    "Prepared like scikit-learn's digits: stretched to 20 × 32 dots, usual line width, dots counted in blocks of 4 × 4.",
};

const GREY_LEVELS = 255; // of MNIST
const MANNERS = { mnist: likeMnist, digits: likeDigits };

/**
 * The longer side fills 20 of 28 pixels, the aspect ratio is kept, edges are antialiased, and the centre of mass is moved
 * to the middle of pixel 14 (counted from 0). Lines are 2.8 pixels wide; MNIST's are about 3.
 */
function likeMnist(strokes, height, width, white) {
  const unit = Math.min(height, width) / 28;
  const [box, pen] = [20 * unit, 2.8 * unit];
  const { left, top, across, down } = bounds(strokes);
  const scale = (box - pen) / Math.max(across, down, LEAST);
  const at =
    (dx, dy) =>
    ([x, y]) => [(x - left - across / 2) * scale + dx, (y - top - down / 2) * scale + dy];
  const middle = [width / 2, height / 2];
  const [massX, massY] = centreOfMass(inkOf(strokes, width, height, pen, at(...middle)));
  const target = [width / 2 + unit / 2, height / 2 + unit / 2];
  const ink = inkOf(strokes, width, height, pen, at(middle[0] + target[0] - massX, middle[1] + target[1] - massY));
  return ink.map((row) => row.map((value) => (Math.round(value * GREY_LEVELS) * white) / GREY_LEVELS));
}

/**
 * As the 8 × 8 digits were made from NIST's forms: stretched to 20 × 32 of 32 × 32 dots, with the line width at which
 * 313 dots are black, their usual number (found by bisection); then the dots of each block of 4 × 4 are counted.
 */
function likeDigits(strokes, height, width, white) {
  const block = 4;
  const [rows, columns] = [height * block, width * block];
  const [tall, wide, dots] = [rows, (columns * 20) / 32, (rows * columns * 313) / 1024];
  let [thin, thick, bitmap] = [rows / 32, rows / 2.5, null];
  for (let times = 0; times < 7; times += 1) {
    const pen = (thin + thick) / 2;
    const map = stretched(strokes, wide - pen, tall - pen, columns, rows);
    bitmap = inkOf(strokes, columns, rows, pen, map).map((row) => row.map(Math.round));
    if (sum(bitmap.map(sum)) < dots) thin = pen;
    else thick = pen;
  }
  return grid(height, width, (y, x) => (white * count(bitmap, block * y, block * x, block)) / block ** 2);
}

/** A map that stretches to `wide` × `tall` in the middle; a straight vertical stroke is not stretched to that width. */
function stretched(strokes, wide, tall, columns, rows) {
  const { left, top, across, down } = bounds(strokes);
  const most = Math.min(wide / Math.max(across, 1e-6), tall / Math.max(down, LEAST)) * 2;
  const [scaleX, scaleY] = [Math.min(wide / Math.max(across, 1e-6), most), Math.min(tall / Math.max(down, 1e-6), most)];
  return ([x, y]) => [columns / 2 + (x - left - across / 2) * scaleX, rows / 2 + (y - top - down / 2) * scaleY];
}

function bounds(strokes) {
  const [xs, ys] = [0, 1].map((axis) => strokes.flat().map((point) => point[axis]));
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  return { left, top, across: right - left, down: bottom - top };
}

let canvas = null;

/** How much of each pixel is covered, from 0 to 1: rows, height × width. */
function inkOf(strokes, width, height, pen, map) {
  canvas ??= document.createElement("canvas");
  Object.assign(canvas, { width, height }); // which also empties it
  const context = canvas.getContext("2d", { willReadFrequently: true });
  trace(context, strokes, pen, map);
  const { data } = context.getImageData(0, 0, width, height);
  return grid(height, width, (y, x) => data[4 * (y * width + x) + 3] / 255);
}

/** [x, y] in pixels; the middle of the first pixel is at 0.5. */
function centreOfMass(ink) {
  const mass = sum(ink.map(sum));
  const x = sum(ink.map((row) => sum(row.map((value, place) => value * (place + 0.5)))));
  const y = sum(ink.map((row, place) => sum(row) * (place + 0.5)));
  return [x / mass, y / mass];
}

const grid = (height, width, value) =>
  Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => value(y, x)));
const sum = (values) => values.reduce((total, value) => total + value, 0);
const count = (bitmap, y, x, block) => sum(bitmap.slice(y, y + block).map((row) => sum(row.slice(x, x + block))));
