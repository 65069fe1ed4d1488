// Buttons with data-copy="text": a press puts the text on the clipboard.

import { toast } from "./dialog.js";

const SHOWN = 80; // characters of a text that are said again

export async function copy(text) {
  const short = text.length <= SHOWN ? `: ${text}` : "";
  try {
    await put(text);
    toast(`Copied${short}`);
  } catch {
    toast(`This browser lets no page copy here. Select the text and copy it by hand${short}`, { bad: true });
  }
}

/** Browsers have a clipboard on https and on this machine alone; elsewhere the old way still works. */
async function put(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("refused");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button.dataset.copy);
});
