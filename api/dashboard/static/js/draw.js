// The Draw page: shows the input of the model and its prediction while the user draws.

import { element } from "./dialog.js";
import { digitise, HOW } from "./digitise.js";
import { percent } from "./format.js";
import { post } from "./http.js";
import { onKeys } from "./keys.js";
import { Pad } from "./pad.js";
import { root } from "./root.js";

const NOTHING = "Nothing is drawn yet";
const PAUSE_MS = 50; // between two calls: the service limits the rate of each token
const WHITE = 1; // of the pixels that are sent, with the request, whatever the white of the model's dataset
const MOST_BARS = 12; // with more classes, only the most likely ones are shown

const ids = ["job", "seen", "said", "heard", "wrong", "bars", "undo", "clear"];
const [choice, seen, said, heard, wrong, bars, undo, clear] = ids.map((id) => document.getElementById(id));
const pad = new Pad(document.getElementById("pad"), read);

/** The chosen job: `{id, manner, height, width, classes}`. */
function reader() {
  const { value: id, dataset } = choice.selectedOptions[0];
  const { manner, height, width, classes } = dataset;
  return {
    id,
    manner,
    height: Number(height),
    width: Number(width),
    classes: JSON.parse(classes),
  };
}

// --- predictions --------------------------------------------------------------------------------------------------------

let wanted = null; // the next drawing to classify; a newer one replaces it
let asking = false; // one call at a time
let drawing = 0; // number of the current drawing; grows each time that the pad is empty

function read() {
  const by = reader();
  const drawn = pad.strokes.length > 0;
  undo.disabled = clear.disabled = !drawn;
  drawing += drawn ? 0 : 1;
  wanted = drawn ? { by, drawing, image: digitise(pad.strokes, { ...by, white: WHITE }) } : null;
  showSeen(by, wanted?.image);
  if (!drawn) showNothing(by);
  ask();
}

async function ask() {
  if (asking) return;
  asking = true;
  for (let asked; wanted && wanted !== asked; ) {
    asked = wanted;
    try {
      const answer = await post(`/v1/jobs/${asked.by.id}/predict`, { images: [asked.image], white: WHITE });
      if (!isStale(asked)) show(answer.classes, answer.predictions[0]);
      await pause(PAUSE_MS);
    } catch (problem) {
      if (problem.name !== "Problem") throw problem;
      if (!isStale(asked)) wrong.textContent = problem.message;
      if (!problem.retryAfter) continue;
      await pause(1000 * problem.retryAfter);
      asked = null; // retry
    }
  }
  asking = false;
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Whether the drawing has been cleared, or another model chosen. More strokes of the same drawing do not count. */
const isStale = (asked) => wanted?.drawing !== asked.drawing || wanted.by.id !== asked.by.id;

// --- rendering ----------------------------------------------------------------------------------------------------------

function show(classes, { label, probabilities }) {
  wrong.textContent = "";
  const text = `${classes[label]} ${percent(probabilities[label])}`;
  said.replaceChildren(element("b", {}, classes[label]), " ", percent(probabilities[label]));
  if (!pad.drawing) heard.textContent = text;
  showBars(classes, probabilities, label);
}

function showNothing({ classes }) {
  said.textContent = heard.textContent = NOTHING;
  wrong.textContent = "";
  showBars(
    classes,
    classes.map(() => 0),
    null,
  );
}

function showBars(classes, probabilities, first) {
  let places = classes.map((_, place) => place);
  if (places.length > MOST_BARS)
    places = places.sort((a, b) => probabilities[b] - probabilities[a]).slice(0, MOST_BARS);
  while (bars.rows.length < places.length) bars.append(barRow());
  while (bars.rows.length > places.length) bars.rows[0].remove();
  places.forEach((place, row) => {
    const [name, track, share] = bars.rows[row].cells;
    name.textContent = classes[place];
    track.firstElementChild.style.width = `${100 * probabilities[place]}%`;
    share.textContent = first === null ? "" : percent(probabilities[place]);
    bars.rows[row].toggleAttribute("data-first", place === first);
  });
}

function barRow() {
  const row = element("tr");
  const track = element("td");
  track.append(element("div", { className: "bar" }));
  row.append(element("th", { scope: "row" }), track, element("td", { className: "number" }));
  return row;
}

function showSeen({ height, width }, image) {
  Object.assign(seen, { width, height });
  if (!image) return;
  const pixels = new ImageData(width, height);
  image.flat().forEach((value, place) => pixels.data.set([255, 255, 255, (255 * value) / WHITE], 4 * place));
  seen.getContext("2d").putImageData(pixels, 0, 0);
}

/** The address names the chosen job, so that the page can be shared. */
function choose() {
  const by = reader();
  history.replaceState(null, "", `${root}/draw?job=${by.id}`);
  document.getElementById("about").href = `${root}/jobs/${by.id}`;
  document.getElementById("how").textContent = HOW[by.manner];
  read();
}

choice.addEventListener("change", choose);
undo.addEventListener("click", () => pad.undo());
clear.addEventListener("click", () => pad.clear());
onKeys("u", "Undo the last stroke", () => pad.undo());
onKeys("c", "Clear the drawing", () => pad.clear());
choose();
