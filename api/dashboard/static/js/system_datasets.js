// The datasets on the System page, with a button to delete an uploaded one.

import { age } from "./age.js";
import { confirm, element, toast } from "./dialog.js";
import { number, size } from "./format.js";
import { call } from "./http.js";
import { root } from "./root.js";
import { showRows } from "./rows.js";

/** `onGone` is called after a dataset was deleted. */
export function showDatasets(datasets, onGone) {
  const table = document.getElementById("datasets");
  showRows(table.tBodies[0], datasets, { key: ({ id }) => id, row: (dataset) => datasetRow(dataset, onGone) });
}

function datasetRow(dataset, onGone) {
  const row = element("tr");
  row.append(nameCell(dataset), imagesCell(dataset), classesCell(dataset));
  for (const count of [dataset.train_examples, dataset.test_examples])
    row.append(element("td", { className: "number" }, number(count)));
  row.append(element("td", { className: "number" }, dataset.size_bytes === null ? "–" : size(dataset.size_bytes)));
  const added = element("td", { className: "nowrap" });
  if (dataset.created_at) added.append(age(dataset.created_at), " ago");
  else added.append(element("span", { className: "muted" }, "built in"));
  row.append(added, deleteCell(dataset, onGone));
  return row;
}

function nameCell({ id, name, description, source, missing_files: missing }) {
  const cell = element("th", { scope: "row" }, name);
  if (source === "upload") {
    const line = element("div", { className: "row id" });
    const button = element(
      "button",
      { type: "button", className: "quiet", ariaLabel: `Copy the id of ${name}` },
      "Copy",
    );
    button.dataset.copy = id;
    line.append(element("code", {}, id), button);
    cell.append(line);
  } else {
    cell.append(element("div", { className: "muted" }, description));
  }
  if (missing.length) cell.append(missingFiles(missing));
  return cell;
}

function missingFiles(files) {
  const folded = element("details", { className: "missing" });
  const text = files.length === 1 ? "1 file is missing" : `${files.length} files are missing`;
  folded.append(element("summary", { className: "warn" }, text));
  folded.append(
    element(
      "p",
      { className: "help muted" },
      "The first job downloads them, unless GRADQ_DOWNLOAD is false; or put them into GRADQ_DATA_DIR:",
    ),
  );
  const list = element("ul");
  for (const file of files) list.append(element("li", { className: "mono" }, file));
  folded.append(list);
  return folded;
}

function imagesCell({ shape: [channels, height, width], dtype }) {
  const cell = element("td", { className: "nowrap" }, `${width} × ${height}`);
  const colours = { 1: "grey", 3: "RGB" }[channels] ?? `${channels} channels`;
  cell.append(element("div", { className: "muted" }, `${colours}, ${dtype}`));
  return cell;
}

function classesCell(dataset) {
  const { name, classes, links } = dataset;
  const cell = element("td");
  const folded = element("details");
  folded.append(
    element("summary", {}, number(classes.length)),
    countsList(dataset),
    element("p", { className: "help muted" }, pixelsText(dataset)),
  );
  if (links.samples) {
    const alt = `The first training images of ${name}, one row per class in this order`;
    folded.append(element("img", { className: "samples", loading: "lazy", src: root + links.samples, alt }));
  }
  cell.append(folded);
  return cell;
}

function countsList({ name, classes, counts }) {
  if (!counts) return element("p", { className: "classes" }, classes.join(", "));
  const list = element("ul", { className: "classes counts", tabIndex: 0, ariaLabel: `Images per class of ${name}` });
  classes.forEach((label, i) => {
    const line = element("li");
    const text = `: ${number(counts.train[i])} training, ${number(counts.test[i])} test`;
    line.append(element("strong", {}, label), text);
    list.append(line);
  });
  return list;
}

/** "white 255; mean 0.131, deviation 0.308 of pixels from 0 to 1", with a mean and a deviation per channel. */
function pixelsText({ white, mean, std }) {
  if (!mean) return `white ${white}`;
  const [middle, spread] = [mean, std].map((values) => values.map((value) => value.toFixed(3)).join(" · "));
  return `white ${white}; mean ${middle}, deviation ${spread} of pixels from 0 to 1`;
}

function deleteCell(dataset, onGone) {
  const cell = element("td", { className: "number" });
  if (dataset.source !== "upload" || "readOnly" in document.documentElement.dataset) return cell;
  const button = element(
    "button",
    { type: "button", className: "danger", ariaLabel: `Delete ${dataset.name}` },
    "Delete",
  );
  button.addEventListener("click", () => askAndDelete(dataset, button, onGone));
  cell.append(button);
  return cell;
}

async function askAndDelete({ name, size_bytes: bytes, links }, button, onGone) {
  const text = `${size(bytes)} of images are deleted. Jobs that were trained on them and their files are kept.`;
  if (!(await confirm({ title: `Delete ${name}?`, text, action: "Delete", danger: true }))) return;
  button.disabled = true;
  try {
    const { freed_bytes: freed } = await call("DELETE", links.self);
    toast(`${name} was deleted; ${size(freed)} freed.`);
    onGone();
  } catch (problem) {
    button.disabled = false;
    toast(`${name} was not deleted: ${problem.message}`, { bad: true });
  }
}
