// A combobox that finds a job by name or id; the API is searched while the user types.

import { element } from "./dialog.js";
import { ago } from "./format.js";
import { get } from "./http.js";

const PAUSE_MS = 150; // without a key, before the search
const SHOWN = 8;

/** `place` holds the input and its list. `onPick(job)` is called with the choice; `isTaken(id)`: jobs to leave out. */
export class JobFinder {
  constructor(place, { onPick, isTaken }) {
    Object.assign(this, { onPick, isTaken, found: [], at: -1 });
    this.input = place.querySelector("[role=combobox]");
    this.list = place.querySelector("[role=listbox]");
    this.input.addEventListener("input", () => this.later());
    this.input.addEventListener("focus", () => this.look());
    this.input.addEventListener("keydown", (event) => this.press(event));
    place.addEventListener("focusout", (event) => place.contains(event.relatedTarget) || this.close());
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), PAUSE_MS);
  }

  async look() {
    this.cut?.abort();
    this.cut = new AbortController();
    try {
      this.found = (await search(this.input.value.trim(), this.cut.signal))
        .filter(({ id }) => !this.isTaken(id))
        .slice(0, SHOWN);
      this.show("No other job matches.");
    } catch (problem) {
      if (problem.name === "AbortError") return;
      this.found = [];
      this.show(problem.message);
    }
  }

  show(instead) {
    if (document.activeElement !== this.input) return;
    this.at = -1;
    const lines = this.found.map((job, place) => this.line(job, place));
    this.list.replaceChildren(
      ...(lines.length
        ? lines
        : [element("li", { className: "muted", role: "option", ariaDisabled: "true" }, instead)]),
    );
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.mark();
  }

  line(job, place) {
    const line = element("li", { role: "option", id: `found-${place}` });
    line.append(
      element("span", { className: `status ${job.status}` }, job.status),
      element("span", { className: "name" }, job.name),
      element(
        "span",
        { className: "muted" },
        [job.spec.gradients, `${ago(job.created_at)} ago`].filter(Boolean).join(" · "),
      ),
    );
    line.addEventListener("pointerdown", (event) => event.preventDefault()); // the input keeps the focus
    line.addEventListener("click", () => this.pick(place));
    return line;
  }

  press(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key === "Escape" && !this.list.hidden) this.close();
    else if (event.key === "Enter" && !this.list.hidden) this.pick(Math.max(this.at, 0));
    else if (event.key in steps && this.list.hidden) this.look();
    else if (event.key in steps) this.move(steps[event.key]);
    else return;
    event.preventDefault();
  }

  move(by) {
    const { length } = this.found;
    if (length) this.at = this.at < 0 && by < 0 ? length - 1 : (this.at + by + length) % length;
    this.mark();
  }

  mark() {
    for (const [place, line] of [...this.list.children].entries()) line.ariaSelected = String(place === this.at);
    if (this.at >= 0) this.input.setAttribute("aria-activedescendant", `found-${this.at}`);
    else this.input.removeAttribute("aria-activedescendant");
  }

  pick(place) {
    const job = this.found[place];
    if (!job) return;
    this.input.value = "";
    this.close();
    this.onPick(job);
  }

  close() {
    clearTimeout(this.timer);
    this.cut?.abort();
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
  }
}

/** The newest jobs whose name contains the text; for an id only that job. */
async function search(text, signal) {
  if (/^job_[0-9a-f]{32}$/.test(text)) {
    return get(`/v1/jobs/${text}`, { signal }).then(
      (job) => [job],
      (problem) => {
        if (problem.status === 404) return [];
        throw problem;
      },
    );
  }
  const query = new URLSearchParams({ limit: 25, ...(text && { name: `*${text}*` }) });
  return (await get(`/v1/jobs?${query}`, { signal })).data;
}
