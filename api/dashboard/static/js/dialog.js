// Questions in a native <dialog>, and short notes at the edge of the page in live regions for screen readers.

/** Ask a question; resolves to whether the answer was yes. `danger`: something ends or is lost. */
export function confirm({ title, text = "", action = "OK", danger = false }) {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "question");
  const form = element("form", { method: "dialog" });
  const heading = element("h2", { id: "question" }, title);
  const actions = element("div", { className: "actions" });
  const no = element("button", { value: "no", autofocus: danger }, danger ? "Keep" : "Close");
  actions.append(
    no,
    element("button", { value: "yes", className: danger ? "danger" : "primary", autofocus: !danger }, action),
  );
  form.append(heading, element("p", {}, text), actions);
  dialog.append(form);
  return showModal(dialog).then(() => dialog.returnValue === "yes");
}

/** Show `content` (a node) under a title until it is closed. */
export function show(title, content) {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "shown");
  const form = element("form", { method: "dialog" });
  const actions = element("div", { className: "actions" });
  actions.append(element("button", { autofocus: true }, "Close"));
  form.append(element("h2", { id: "shown" }, title), content, actions);
  dialog.append(form);
  return showModal(dialog);
}

/** A note that disappears after `seconds`; a `bad` one stays until it is closed. */
export function toast(text, { bad = false, seconds = 6 } = {}) {
  const note = element("div", { className: bad ? "toast bad" : "toast" });
  const close = element("button", { type: "button", className: "quiet", ariaLabel: "Close this note" }, "×");
  close.addEventListener("click", () => note.remove());
  const said = element("span");
  said.append(...withCode(text));
  note.append(said, close);
  place(bad).append(note);
  if (!bad) setTimeout(() => note.remove(), seconds * 1000);
}

/** Shows a modal dialog; resolves once it is closed and removed. */
export function showModal(dialog) {
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((done) => {
    const end = () => {
      dialog.remove();
      done();
    };
    dialog.addEventListener("close", end, { once: true });
  });
}

/** The parts of a message, as nodes and texts: a word between backticks is code. */
export const withCode = (text) =>
  text.split(/`([^`]+)`/).map((part, place) => (place % 2 ? element("code", {}, part) : part));

/** One of two live regions. They exist before their first note: a region added together with it is not read out. */
function place(bad) {
  return document.querySelector(bad ? ".toasts [role=alert]" : ".toasts [role=status]");
}

export function prepareNotes() {
  const notes = element("div", { className: "toasts" });
  notes.append(element("div", { role: "status" }), element("div", { role: "alert" }));
  document.body.append(notes);
}

/** A new element with these properties (not attributes) and this text. */
export function element(name, properties = {}, text = null) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== null) made.textContent = text;
  return made;
}
