// The parts of the page that the server renders: fetched again when the job has changed, and replaced where they differ.

import { request } from "./http.js";

export class Parts {
  /** `onShown` is called after parts were replaced. */
  constructor(onShown) {
    this.onShown = onShown;
    this.marks = new Map();
    for (const part of partsOf(document)) this.marks.set(part.dataset.part, mark(part));
  }

  /** One fetch at a time: a call during a fetch starts another one after it. */
  refresh() {
    this.running = (this.running ?? Promise.resolve()).catch(() => {}).then(() => this.fetch());
    return this.running;
  }

  async fetch() {
    const answer = await request(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = fresh.title;
    let changed = false;
    for (const part of partsOf(fresh)) {
      const { part: name } = part.dataset;
      const now = mark(part);
      if (this.marks.get(name) === now) continue;
      this.marks.set(name, now);
      exchange(document.querySelector(`[data-part="${name}"]`), document.adoptNode(part));
      changed = true;
    }
    if (changed) this.onShown();
  }
}

const partsOf = (page) => page.querySelectorAll("[data-part]");

/** The content of a part for comparison, without ages, which scripts update. */
function mark(part) {
  const copy = part.cloneNode(true);
  for (const time of copy.querySelectorAll("time")) {
    time.textContent = "";
    time.removeAttribute("title");
  }
  return copy.outerHTML;
}

/** Replace a part. The focus stays on the element with the same id or, if it no longer exists, on its group. */
function exchange(old, fresh) {
  const held = old.contains(document.activeElement) ? document.activeElement : null;
  const group = held?.closest("[tabindex='-1'][id]")?.id;
  old.replaceWith(fresh);
  if (held) (document.getElementById(held.id) ?? document.getElementById(group))?.focus({ preventScroll: true });
}
