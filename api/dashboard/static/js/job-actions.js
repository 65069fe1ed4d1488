// Actions on the job: buttons that the server renders according to its state, and their keyboard shortcuts.

import { confirm, toast } from "./dialog.js";
import { call, newKey, post } from "./http.js";
import { edit } from "./job-edit.js";
import { onKeys } from "./keys.js";
import { root } from "./root.js";

const KEYS = {
  c: "Cancel the job",
  p: "Pause or resume the job",
  r: "Retry or reproduce the job",
  e: "Edit name, priority, labels",
  d: "Delete the job",
};

export class Actions {
  /** `onChange` is called after an action. */
  constructor(root, self, onChange) {
    Object.assign(this, { root, self, onChange });
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-action]");
      if (button) this.press(button);
    });
    for (const [key, label] of Object.entries(KEYS))
      onKeys(key, label, () => root.querySelector(`[data-key="${key}"]`)?.click());
  }

  async press(button) {
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    try {
      const next = await this.run(button.dataset.action);
      if (next) return location.assign(next);
    } catch (problem) {
      toast(problem.message, { bad: true });
    } finally {
      button.ariaBusy = null;
    }
    this.onChange();
  }

  /** Resolves to the address of the page to go to, or nothing. */
  async run(action) {
    if (action === "edit") return edit(this.self);
    if (action === "delete") return this.remove();
    if (action === "cancel" && !(await this.reallyCancel())) return null;
    const job = await post(`${this.self}/${action}`, undefined, { key: newKey() });
    return action === "reproduce" ? `${root}/jobs/${job.id}` : null;
  }

  reallyCancel() {
    const text = "It stops; its checkpoints are kept, and Retry continues from them.";
    return confirm({ title: `Cancel ${nameOfJob()}?`, text, action: "Cancel the job", danger: true });
  }

  async remove() {
    const name = nameOfJob();
    const text = "Its log, curves and files are deleted too. This cannot be undone.";
    if (!(await confirm({ title: `Delete ${name}?`, text, action: "Delete", danger: true }))) return null;
    await call("DELETE", this.self);
    return `${root}/`;
  }
}

const nameOfJob = () => document.querySelector("h1").textContent;
