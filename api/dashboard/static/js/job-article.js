// The article's figures next to those of this job, at both ends of each curve.

import { element } from "./dialog.js";
import { number } from "./format.js";

export function showArticle(table, series) {
  if (!table) return;
  const rows = compare(JSON.parse(table.dataset.figures), series, JSON.parse(table.dataset.result));
  table.tBodies[0].replaceChildren(
    ...rows.map(([what, theirs, ours]) => {
      const row = element("tr");
      const head = element("th", { scope: "row" }, what);
      row.append(head, ...[theirs, ours].map((value) => element("td", { className: "number" }, number(value))));
      return row;
    }),
  );
}

/** [name, the article's, ours], as in `gradq show`: ends of curves, and figures of the result if it has them. */
function compare(article, series, result) {
  const rows = new Map();
  const add = (metric, end, theirs) =>
    rows.set(`${end} ${metric.replace("_", " ")}`, [theirs, series[metric]?.at(end === "first" ? 0 : -1)?.[2]]);
  for (const [name, theirs] of Object.entries(article)) {
    const [, end, metric] = name.match(/^(first|last)_(.+)$/) ?? [];
    if (theirs === null) continue;
    if (end) add(metric, end, theirs);
    else if (Array.isArray(theirs)) {
      add(name, "first", theirs[0]);
      add(name, "last", theirs.at(-1));
    } else if (typeof result[name] === "number") rows.set(name.replace("_", " "), [theirs, result[name]]);
  }
  return [...rows].map(([what, [theirs, ours]]) => [what, theirs, ours]);
}
