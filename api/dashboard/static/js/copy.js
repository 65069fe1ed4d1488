// Buttons with data-copy="text" copy the text to the clipboard.

import { toast } from "./dialog.js";

const SHOWN = 80; // a longer text is not repeated in the note

export async function copy(text) {
  const short = text.length <= SHOWN ? `: ${text}` : "";
  try {
    await put(text);
    toast(`Copied${short}`);
  } catch {
    toast(`The browser does not allow pages to copy here. Select the text and copy it by hand${short}`, { bad: true });
  }
}

/** navigator.clipboard exists only on https and localhost; elsewhere execCommand still works. */
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
