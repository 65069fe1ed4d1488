// The last lines of the job's log, updated as lines are written; filtered by the server, so that rare lines are found in
// long logs.

import { get } from "./http.js";
import { onKeys } from "./keys.js";

const PAGE = 200;
const MOST = 500; // lines in the page
const AT_THE_END = 30; // pixels from the end that count as the end
const STATES = {
  live: "",
  polling: "Updated every few seconds: no stream is free.",
  away: "No answer; retrying.",
  ended: "",
};

export class Log {
  constructor(address) {
    this.address = address;
    [this.place, this.lines, this.form, this.says] = ["log", "lines", "log-filter", "log-state"].map((id) =>
      document.getElementById(id),
    );
    this.button = document.getElementById("follow");
    this.template = document.getElementById("line").content.firstElementChild;
    this.following = true;
    this.newest = 0;
    this.missed = 0;
    this.waiting = [];
    this.listen();
    this.load();
  }

  /** Load the last lines that match the filter. Lines that arrive meanwhile are added afterwards. */
  async load() {
    const wanted = new FormData(this.form);
    this.wanted = wanted;
    this.loading = true;
    const page = await this.page({}).catch((problem) => this.fail(problem));
    if (wanted !== this.wanted) return; // the filter has been changed again
    this.loading = false;
    if (!page) return;
    this.lines.replaceChildren(...page.data.map((line) => this.row(line)));
    this.newest = page.next_after;
    this.missed = 0;
    this.between(page);
    this.toTheEnd();
    for (const line of this.waiting.splice(0)) this.add(line);
  }

  async earlier() {
    const first = this.lines.firstElementChild;
    const page = await this.page({ before: first.dataset.seq }).catch((problem) => this.fail(problem));
    if (!page) return;
    this.follow(false);
    const height = this.place.scrollHeight;
    this.lines.prepend(...page.data.map((line) => this.row(line)));
    while (this.lines.childElementCount > MOST) this.lines.lastElementChild.remove();
    this.between(page);
    this.place.scrollTop += this.place.scrollHeight - height;
  }

  page({ before }) {
    const asked = new URLSearchParams({ last: "true", limit: PAGE });
    for (const [name, value] of this.wanted) if (value) asked.set(name, value);
    if (before) asked.set("before", before);
    return get(`${this.address}?${asked}`);
  }

  /** Add a line from the stream. */
  add(line) {
    if (this.loading) {
      if (this.waiting.push(line) > MOST) this.waiting.shift();
      return;
    }
    if (line.seq <= this.newest || !this.wants(line)) return;
    this.newest = line.seq;
    if (!this.following) {
      this.missed += 1;
      return this.count();
    }
    this.lines.append(this.row(line));
    document.getElementById("log-empty").hidden = true;
    if (this.lines.childElementCount > MOST) {
      this.lines.firstElementChild.remove();
      document.getElementById("earlier").hidden = false;
    }
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.toTheEnd();
    });
  }

  wants({ type, level }) {
    return ["type", "level"].every(
      (name) => !this.wanted.get(name) || this.wanted.get(name).split(",").includes({ type, level }[name]),
    );
  }

  follow(on) {
    if (on === this.following) return;
    this.following = on;
    this.button.ariaPressed = String(on);
    if (on) this.load();
    else this.count();
  }

  count() {
    this.says.textContent = this.missed
      ? `Paused; ${this.missed} new ${this.missed === 1 ? "line" : "lines"}.`
      : "Paused.";
  }

  state(state) {
    if (this.following) this.says.textContent = STATES[state];
  }

  fail(problem) {
    this.says.textContent = problem.message;
  }

  between({ data, has_more }) {
    document.getElementById("earlier").hidden = !has_more;
    document.getElementById("log-empty").hidden = Boolean(data.length);
    if (this.following) this.says.textContent = "";
  }

  row(line) {
    const row = this.template.cloneNode(true);
    const [time, type, message] = row.children;
    row.dataset.seq = line.seq;
    row.className = `level-${line.level}`; // a word of its own: `error` is the class of error messages
    time.dateTime = line.created_at;
    time.textContent = new Date(line.created_at).toLocaleTimeString([], { hour12: false });
    time.title = line.created_at;
    type.textContent = line.level === "info" || line.type === "warning" ? line.type : `${line.type} ${line.level}`;
    message.textContent = line.message;
    return row;
  }

  toTheEnd() {
    if (this.following) this.place.scrollTop = this.place.scrollHeight;
  }

  listen() {
    this.form.addEventListener("change", () => {
      this.following = true;
      this.button.ariaPressed = "true";
      this.load();
    });
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.button.addEventListener("click", () => this.follow(!this.following));
    document.getElementById("earlier").addEventListener("click", () => this.earlier());
    for (const by of ["wheel", "touchmove", "keydown"])
      this.place.addEventListener(by, () => requestAnimationFrame(() => this.looked()), { passive: true });
    onKeys("f", "Follow the log, or stop", () => this.follow(!this.following));
  }

  /** Scrolling away from the end stops following. */
  looked() {
    const { scrollHeight, scrollTop, clientHeight } = this.place;
    if (scrollHeight - scrollTop - clientHeight > AT_THE_END) this.follow(false);
  }
}
