// The confusion matrix as a table for mouse and keyboard, with precision, recall and F1 of each class.

import { element } from "./dialog.js";
import { number, percent } from "./format.js";
import { get } from "./http.js";
import { root } from "./root.js";

const LARGEST = 30; // classes; with more, confusion_matrix.png is shown instead of the table
const WORST = 8;

/** Fill `place`, once for each element that the server has rendered. */
export async function showMatrix(place) {
  if (!place || place.dataset.shown) return;
  place.dataset.shown = "true";
  try {
    const found = await get(place.dataset.address);
    const shown = element("div", { className: "evaluated" });
    shown.append(found.classes.length <= LARGEST ? table(found) : picture(place.dataset.address), figures(found));
    place.replaceChildren(shown);
  } catch (problem) {
    place.replaceChildren(element("p", { className: "error" }, problem.message));
  }
}

function table(found) {
  const { classes, matrix, support } = found;
  const made = element("table", {
    className: "matrix",
    role: "grid",
    ariaLabel: "Confusion matrix: true classes in rows, predicted in columns",
  });
  const says = element(
    "p",
    { className: "muted", role: "status" },
    "Rows: true classes. Columns: predicted classes. Select a cell with the mouse or the arrow keys.",
  );
  const head = element("tr");
  const corner = element("th");
  corner.append(element("span", { className: "unseen" }, "true class"));
  head.append(corner, ...classes.map((name) => element("th", { scope: "col" }, name)));
  made.createTHead().append(head);
  const body = made.createTBody();
  const cells = matrix.map((counts, row) => {
    const line = body.insertRow();
    line.append(element("th", { scope: "row" }, classes[row]));
    return counts.map((count, column) => {
      const cell = element(
        "td",
        { className: row === column ? "right" : count ? "wrong" : "wrong none", tabIndex: -1 },
        String(count),
      );
      cell.role = "gridcell";
      // the square root, so that one mistake in a hundred is still visible
      cell.style.setProperty("--depth", Math.sqrt(count / Math.max(support[row], 1)).toFixed(3));
      const describe = () => (says.textContent = sentence(found, row, column));
      cell.addEventListener("mouseenter", describe);
      cell.addEventListener("focus", describe);
      line.append(cell);
      return cell;
    });
  });
  walkable(made, cells);
  const frame = element("div", { className: "scroll" });
  frame.append(made);
  const whole = element("div");
  whole.append(frame, says);
  return whole;
}

/** One tab stop for the whole grid; the arrow keys move between cells. */
function walkable(grid, cells) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  let here = [0, 0];
  cells[0][0].tabIndex = 0;
  const go = (row, column) => {
    const next = cells[row]?.[column];
    if (!next) return;
    cells[here[0]][here[1]].tabIndex = -1;
    here = [row, column];
    next.tabIndex = 0;
    next.focus();
  };
  grid.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [down, right] = steps[event.key];
    go(here[0] + down, here[1] + right);
  });
  cells.forEach((line, row) => line.forEach((cell, column) => cell.addEventListener("click", () => go(row, column))));
}

function sentence({ classes, matrix, support }, row, column) {
  const count = matrix[row][column];
  const images = count === 1 ? "1 image" : `${number(count)} images`;
  const share = percent(support[row] ? count / support[row] : 0);
  return row === column
    ? `${images} of ${classes[row]} classified correctly: ${share} of this class.`
    : `${images} of ${classes[row]} classified as ${classes[column]}: ${share} of this class.`;
}

/** The figures of each class, and the pairs of classes that are confused most often. */
function figures(found) {
  const whole = element("div");
  const frame = element("div", {
    className: "scroll",
    tabIndex: 0,
    role: "region",
    ariaLabel: "Figures of each class",
  });
  frame.append(perClass(found));
  whole.append(frame);
  const pairs = worst(found);
  if (pairs.length) {
    const list = element("ol", { className: "muted" });
    list.append(...pairs.map(([row, column]) => element("li", {}, sentence(found, row, column))));
    whole.append(element("h3", {}, "Most often mistaken"), list);
  }
  return whole;
}

function perClass({ classes, precision, recall, f1, support }) {
  const made = element("table", { className: "classes" });
  const head = made.createTHead().insertRow();
  head.append(
    ...["Class", "Precision", "Recall", "F1", "Images"].map((text, i) =>
      element("th", { scope: "col", className: i ? "number" : "" }, text),
    ),
  );
  const body = made.createTBody();
  classes.forEach((name, i) => {
    const line = body.insertRow();
    line.append(element("th", { scope: "row" }, name));
    const shown = [...[precision, recall, f1].map((of) => percent(of[i])), number(support[i])];
    line.append(...shown.map((text) => element("td", { className: "number" }, text)));
  });
  return made;
}

function worst({ matrix }) {
  const pairs = matrix.flatMap((counts, row) =>
    counts.map((count, column) => [row, column, row === column ? 0 : count]),
  );
  return pairs
    .filter(([, , count]) => count)
    .sort((a, b) => b[2] - a[2])
    .slice(0, WORST);
}

function picture(address) {
  const frame = element("div", { className: "scroll" });
  frame.append(
    element("img", {
      className: "picture",
      src: root + address.replace(/json$/, "png"),
      alt: "Confusion matrix: true classes in rows, predicted in columns",
    }),
  );
  return frame;
}
