// Keyboard shortcuts: one key, or two in sequence like `g j`. `?` lists those of the page.

import { element, show } from "./dialog.js";

const BETWEEN_MS = 1200; // longest time between the two keys of a pair
const known = new Map(); // keys -> {label, run}
let before = "";
let pressedAt = 0;

/** `keys`: the value of `event.key`; two are separated by a space. */
export function onKeys(keys, label, run) {
  known.set(keys, { label, run });
}

export function showKeys() {
  const list = document.createElement("dl");
  for (const [keys, { label }] of known) {
    const term = document.createElement("dt");
    for (const key of keys.split(" ")) term.append(element("kbd", {}, key), " ");
    list.append(term, element("dd", {}, label));
  }
  return show("Keyboard shortcuts", list);
}

function press(event) {
  if (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    event.isComposing ||
    isWriting(event.target) ||
    document.querySelector("dialog[open]")
  )
    return;
  const pair = event.timeStamp - pressedAt < BETWEEN_MS ? `${before} ${event.key}` : "";
  const found = known.get(pair) ?? known.get(event.key);
  [before, pressedAt] = [found ? "" : event.key, event.timeStamp];
  if (!found) return;
  event.preventDefault();
  found.run(event);
}

const isWriting = (target) =>
  target.isContentEditable ||
  (/^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && !/^(checkbox|radio|button)$/.test(target.type));

document.addEventListener("keydown", press);
