// The form that uploads a dataset: files from a chooser or drag and drop, the part of each, progress, and the outcome.

import { element, toast } from "./dialog.js";
import { number, size } from "./format.js";
import { clearProblem, Problem, showProblem } from "./http.js";
import { upload } from "./upload.js";

const PARTS = {
  file: "whole dataset (.npz or .zip)",
  images: "training images (IDX)",
  labels: "training labels (IDX)",
  test_images: "test images (IDX)",
  test_labels: "test labels (IDX)",
};
const OPTIONS = ["name", "test_fraction", "seed", "size", "white"];

/** `onStored` is called after a dataset was stored. */
export function prepareUpload(form, onStored) {
  const at = (id) => form.querySelector(`#${id}`);
  const chosen = []; // {file, line, select}
  let sending = null; // an AbortController

  function choose(files) {
    for (const file of files) {
      const line = element("li", { className: "field" });
      const select = element("select", { ariaLabel: `Content of ${file.name}` });
      for (const [part, text] of Object.entries(PARTS)) select.append(element("option", { value: part }, text));
      const remove = element("button", { type: "button", className: "quiet", ariaLabel: `Remove ${file.name}` }, "×");
      const entry = { file, line, select };
      const head = element("div", { className: "row" });
      head.append(
        element("span", { className: "file-name" }, file.name),
        element("span", { className: "muted" }, size(file.size)),
        select,
        remove,
      );
      line.append(head);
      select.addEventListener("change", () => (select.dataset.pointer = `/${select.value}`));
      remove.addEventListener("click", () => leaveOut(entry));
      chosen.push(entry);
      at("files").append(line);
    }
    guessParts();
    changed();
  }

  function guessParts() {
    const names = chosen.map(({ file }) => file.name);
    for (const [i, { select }] of chosen.entries()) {
      select.value = partOf(names[i], names.length);
      select.dataset.pointer = `/${select.value}`;
    }
  }

  function leaveOut(entry) {
    chosen.splice(chosen.indexOf(entry), 1);
    entry.line.remove();
    changed();
    at("chooser").focus();
  }

  function changed() {
    clearProblem(form);
    at("options").hidden = at("actions").hidden = !chosen.length;
  }

  async function send() {
    clearProblem(form);
    const total = chosen.reduce((sum, { file }) => sum + file.size, 0);
    if (total > Number(form.dataset.limit)) return refuse(tooLarge(total, Number(form.dataset.limit)));
    sending = new AbortController();
    busy(true);
    const outcome = await upload("/v1/datasets", body(), { onProgress: show, signal: sending.signal }).catch(
      (problem) => problem,
    );
    sending = null;
    busy(false);
    if (outcome.name === "AbortError") toast("Cancelled: nothing was stored.");
    else if (outcome instanceof Problem) refuse(outcome);
    else stored(outcome.json, outcome.status === 200);
  }

  function body() {
    const data = new FormData();
    for (const { file, select } of chosen) data.append(select.value, file);
    for (const name of OPTIONS) {
      const value = form.elements[name].value.trim();
      if (value) data.append(name, value); // empty fields are not sent: the service refuses some that do not apply
    }
    return data;
  }

  function busy(is) {
    at("cancel").hidden = at("bar").hidden = !is;
    at("send").disabled = is;
    for (const field of form.querySelectorAll("input, select, .files button")) field.disabled = is;
    if (is) at("cancel").focus();
    else if (document.activeElement === document.body) at("send").focus();
    (is ? addEventListener : removeEventListener)("beforeunload", warn);
  }

  function show(sent, total) {
    const bar = at("bar").querySelector("progress");
    if (sent < total) {
      bar.max = total;
      bar.value = sent;
    } else {
      bar.removeAttribute("value"); // indeterminate: the duration is unknown
    }
    say(at("phase"), sent < total ? "Sending" : "Sent. The service is checking and decoding the files");
    say(at("bytes"), sent < total ? `${size(sent)} of ${size(total)}` : size(total));
  }

  function stored({ name, train_examples: train, test_examples: test, warnings }, before) {
    toast(
      before
        ? `This dataset is stored already, as ${name}.`
        : `${name} was stored: ${number(train)} training images, ${number(test)} test images.`,
    );
    for (const warning of warnings) toast(`${name}: ${warning}`, { bad: true });
    for (const { line } of chosen.splice(0)) line.remove();
    form.reset();
    changed();
    onStored();
  }

  /** An error without a pointer concerns the files: it is shown next to the first. */
  function refuse(problem) {
    const pointer = chosen[0].select.dataset.pointer;
    const errors = problem.errors?.length ? problem.errors : [{ pointer, detail: problem.message }];
    showProblem(form, { ...problem, errors })?.focus();
  }

  function drop(event) {
    const items = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
    const folder = items.map((item) => item.webkitGetAsEntry?.()).find((entry) => entry?.isDirectory);
    if (folder) toast(`${folder.name} is a folder: drop a zip of it instead.`, { bad: true });
    else if (!sending) choose(event.dataTransfer.files);
  }

  at("chooser").addEventListener("change", ({ target }) => {
    choose(target.files);
    target.value = ""; // so that the same file can be chosen again
  });
  at("cancel").addEventListener("click", () => sending?.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (chosen.length && !sending) send();
  });
  dropZone(at("drop"), drop);
}

/** A file dropped outside the zone would replace the page, so drops are intercepted everywhere. */
function dropZone(zone, onDrop) {
  const over = (event) => zone.classList.toggle("over", event.type === "dragover" && zone.contains(event.target));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    over(event);
  });
  addEventListener("dragleave", over);
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(event);
    if (zone.contains(event.target)) onDrop(event);
  });
}

/** The part of a file, guessed from its name: MNIST's file names, and similar ones. */
function partOf(name, count) {
  if (count === 1 && !/idx\d/i.test(name)) return "file";
  const test = /t10k|test/i.test(name) ? "test_" : "";
  return /label|idx1/i.test(name) ? `${test}labels` : /image|idx3/i.test(name) ? `${test}images` : "file";
}

function tooLarge(bytes, limit) {
  return new Problem({
    code: "payload_too_large",
    detail: `The files have ${size(bytes)}; this service accepts up to ${size(limit)} (GRADQ_MAX_UPLOAD_BYTES).`,
  });
}

/** Written only when it differs: each write is read out by screen readers. */
function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

const warn = (event) => event.preventDefault();
