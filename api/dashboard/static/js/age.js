// A time as the age that it has now; shell.js lets it grow.

import { element } from "./dialog.js";
import { ago, moment } from "./format.js";

export function age(at) {
  const made = element("time", { dateTime: at, title: moment(at) }, ago(at));
  made.dataset.ago = "";
  return made;
}
