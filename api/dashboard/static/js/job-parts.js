// The parts of the page that the server writes: fetched again when the job has moved, and put in place where they differ.

import { request } from "./http.js";

export class Parts {
  /** `onShown` is called when parts were exchanged. */
  constructor(onShown) {
    this.onShown = onShown;
    this.marks = new Map();
    for (const part of partsOf(document)) this.marks.set(part.dataset.part, mark(part));
  }

  /** One at a time: who asks meanwhile is given what comes after it. */
  refresh() {
    this.running = (this.running ?? Promise.resolve()).catch(() => {}).then(() => this.fetch());
    return this.running;
  }

  async fetch() {
    const answer = await request(location.pathname, { headers: { Accept: "text/html" }, cache: "no-store" });
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

/** What a part says, but for ages, which grow by themselves. */
function mark(part) {
  const copy = part.cloneNode(true);
  for (const time of copy.querySelectorAll("time")) {
    time.textContent = "";
    time.removeAttribute("title");
  }
  return copy.outerHTML;
}

/** Whoever had the focus keeps it, or, if it is gone, the group that it stood in. */
function exchange(old, fresh) {
  const held = old.contains(document.activeElement) ? document.activeElement : null;
  const group = held?.closest("[tabindex='-1'][id]")?.id;
  old.replaceWith(fresh);
  if (held) (document.getElementById(held.id) ?? document.getElementById(group))?.focus({ preventScroll: true });
}
