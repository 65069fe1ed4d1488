// The form that uploads a dataset: files by chooser or drop, each in its part; bytes as they go, then what the service finds.

import { element, toast } from "./dialog.js";
import { number, size } from "./format.js";
import { clearProblem, Problem, showProblem } from "./http.js";
import { upload } from "./upload.js";

const PARTS = {
  file: "all of it: .npz or .zip",
  images: "images to train on (IDX)",
  labels: "labels to train on (IDX)",
  test_images: "images to test on (IDX)",
  test_labels: "labels to test on (IDX)",
};
const OPTIONS = ["name", "test_fraction", "seed", "size"];

/** `onStored`: told when the service has taken one. */
export function prepareUpload(form, onStored) {
  const at = (id) => form.querySelector(`#${id}`);
  const chosen = []; // {file, line, select}
  let sending = null; // an AbortController

  function choose(files) {
    for (const file of files) {
      const line = element("li", { className: "field" });
      const select = element("select", { ariaLabel: `What ${file.name} is` });
      for (const [part, text] of Object.entries(PARTS)) select.append(element("option", { value: part }, text));
      const remove = element(
        "button",
        { type: "button", className: "quiet", ariaLabel: `Leave ${file.name} out` },
        "×",
      );
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
    if (outcome.name === "AbortError") toast("Cancelled: nothing of it is kept.");
    else if (outcome instanceof Problem) refuse(outcome);
    else stored(outcome.json, outcome.status === 200);
  }

  function body() {
    const data = new FormData();
    for (const { file, select } of chosen) data.append(select.value, file);
    for (const name of OPTIONS) {
      const value = form.elements[name].value.trim();
      if (value) data.append(name, value); // an empty field is none: some are refused where they are of no use
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
      bar.removeAttribute("value"); // how long it takes nobody knows
    }
    say(at("phase"), sent < total ? "Sending" : "All is sent. The service is checking and decoding it");
    say(at("bytes"), sent < total ? `${size(sent)} of ${size(total)}` : size(total));
  }

  function stored({ name, train_examples: train, test_examples: test }, before) {
    toast(
      before
        ? `This is here already, as ${name}.`
        : `${name} is here: ${number(train)} images to train on, ${number(test)} to test on.`,
    );
    for (const { line } of chosen.splice(0)) line.remove();
    form.reset();
    changed();
    onStored();
  }

  /** What names no part is about the files: it is shown beside the first. */
  function refuse(problem) {
    const pointer = chosen[0].select.dataset.pointer;
    const errors = problem.errors?.length ? problem.errors : [{ pointer, detail: problem.message }];
    showProblem(form, { ...problem, errors })?.focus();
  }

  function drop(event) {
    const items = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
    const folder = items.map((item) => item.webkitGetAsEntry?.()).find((entry) => entry?.isDirectory);
    if (folder) toast(`${folder.name} is a folder: make a zip of it, and drop that.`, { bad: true });
    else if (!sending) choose(event.dataTransfer.files);
  }

  at("chooser").addEventListener("change", ({ target }) => {
    choose(target.files);
    target.value = ""; // the same file may be chosen again
  });
  at("cancel").addEventListener("click", () => sending?.abort());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (chosen.length && !sending) send();
  });
  dropZone(at("drop"), drop);
}

/** A file that misses the zone would replace the page: none does anywhere. */
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

/** MNIST's own names, and what people call theirs. */
function partOf(name, count) {
  if (count === 1 && !/idx\d/i.test(name)) return "file";
  const test = /t10k|test/i.test(name) ? "test_" : "";
  return /label|idx1/i.test(name) ? `${test}labels` : /image|idx3/i.test(name) ? `${test}images` : "file";
}

function tooLarge(bytes, limit) {
  return new Problem({
    code: "payload_too_large",
    detail: `These are ${size(bytes)}; this service takes up to ${size(limit)} (GRADQ_MAX_UPLOAD_BYTES).`,
  });
}

/** Written only when it differs: each write is read out by screen readers. */
function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

const warn = (event) => event.preventDefault();
