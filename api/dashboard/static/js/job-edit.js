// Edits name, priority and labels in a dialog. Only changed fields are sent, so that other users' changes are not undone.

import { showModal, toast } from "./dialog.js";
import { call, clearProblem, showProblem } from "./http.js";

/** Resolves when the dialog is closed. */
export function edit(self) {
  const before = JSON.parse(document.getElementById("edited").textContent);
  const dialog = document.getElementById("edit-dialog").content.firstElementChild.cloneNode(true);
  const form = dialog.querySelector("form");
  form.elements.name.value = before.name;
  form.elements.priority.value = before.priority;
  const rows = form.querySelector(".labels");
  for (const [key, value] of Object.entries(before.labels)) rows.append(row(key, value));
  form
    .querySelector("[data-add]")
    .addEventListener("click", () => rows.appendChild(row("", "")).querySelector("input").focus());
  form.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(self, form, changes(before, form), dialog);
  });
  return showModal(dialog);
}

async function send(self, form, wanted, dialog) {
  clearProblem(form);
  try {
    if (Object.keys(wanted).length) await call("PATCH", self, { json: wanted });
    dialog.close();
    toast(Object.keys(wanted).length ? "Saved" : "No changes to save");
  } catch (problem) {
    (showProblem(form, problem) ?? form.querySelector("input")).focus();
  }
}

/** A JSON merge patch: a removed label is null. */
function changes(before, form) {
  const now = { name: form.elements.name.value.trim(), priority: form.elements.priority.valueAsNumber };
  const wanted = Object.fromEntries(Object.entries(now).filter(([name, value]) => value !== before[name]));
  const labels = labelsOf(form);
  const patch = {};
  for (const key of Object.keys(before.labels)) if (!(key in labels)) patch[key] = null;
  for (const [key, value] of Object.entries(labels)) if (before.labels[key] !== value) patch[key] = value;
  return Object.keys(patch).length ? { ...wanted, labels: patch } : wanted;
}

function labelsOf(form) {
  const pairs = [...form.querySelectorAll(".labels > div")].map((place) =>
    [...place.querySelectorAll("input")].map((input) => input.value.trim()),
  );
  return Object.fromEntries(pairs.filter(([key]) => key));
}

function row(key, value) {
  const made = document.getElementById("label-row").content.firstElementChild.cloneNode(true);
  const [keyField, valueField] = made.querySelectorAll("input");
  [keyField.value, valueField.value] = [key, value];
  made.querySelector("button").addEventListener("click", () => made.remove());
  return made;
}
