// A time shown as its age; shell.js updates it once a second.

import { element } from "./dialog.js";
import { ago, moment } from "./format.js";

/** A `<time>` element; `at` is an ISO time. */
export function age(at) {
  const made = element("time", { dateTime: at, title: moment(at) }, ago(at));
  made.dataset.ago = "";
  return made;
}
