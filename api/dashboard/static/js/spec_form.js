// Reads the form of a job spec as the JSON that the service accepts. It depends on the kinds of fields, not on their
// names; templates/_spec_form.html renders the same kinds.

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/**
 * The body to send: only fields that differ from `base`, the values that the service uses for fields that are not sent.
 * Text in a number field is sent as it is: the service reports the error.
 */
export function read(form) {
  const base = JSON.parse(form.dataset.base);
  const body = form.dataset.preset ? { preset: form.dataset.preset } : {};
  for (const group of form.querySelectorAll(".group > [data-fields]")) {
    for (const field of fieldsIn(group)) {
      const whole = valueIn(field, true);
      if (whole !== undefined && !equal(whole, base[field.dataset.name]))
        body[field.dataset.name] = valueIn(field, false);
    }
  }
  return body;
}

/** Errors that JSON cannot represent, so that the service cannot find them (repeated keys): `[{pointer, detail}]`. */
export function unsendable(form) {
  const found = [];
  for (const pairs of form.querySelectorAll("[data-kind=pairs]")) {
    const seen = new Set();
    for (const input of pairs.querySelectorAll("[data-items] [data-key]")) {
      if (seen.has(input.value) && rowIsUsed(input))
        found.push({ pointer: input.dataset.pointer, detail: "is given twice" });
      seen.add(input.value);
    }
  }
  return found;
}

/** Add the behaviour: lists grow and shrink, choices show their fields; each change dispatches `input` on the form. */
export function enliven(form) {
  form.addEventListener("change", (event) => turn(event.target));
  form.addEventListener("input", () => form.querySelectorAll("[data-kind=items], [data-kind=pairs]").forEach(number));
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-add], [data-remove]");
    if (!button) return;
    if (button.hasAttribute("data-add")) add(button);
    else remove(button);
    form.dispatchEvent(new Event("input", { bubbles: true }));
  });
  form.querySelectorAll("[data-kind=items], [data-kind=pairs]").forEach(number);
  form.querySelectorAll("select, [type=checkbox]").forEach(turn); // on Back, the browser restores the choices
}

// --- values ----------------------------------------------------------------------------------------------------------

const control = (field) => field.querySelector("[data-pointer]");
const fieldsIn = (place) => [...place.children].filter((child) => child.dataset.kind);
const equal = (one, other) => JSON.stringify(one, ordered) === JSON.stringify(other, ordered);
const ordered = (_, value) =>
  value?.constructor === Object ? Object.fromEntries(Object.entries(value).sort()) : value;
const numberOr = (text) => (NUMBER.test(text) ? Number(text) : text);

/** The value of a field; undefined if it is empty and the default applies. `whole`: include defaults inside objects. */
const valueIn = (field, whole) => READ[field.dataset.kind](field, whole);

const READ = {
  text: (field) => control(field).value.trim() || undefined,
  number: (field) => (control(field).value.trim() ? numberOr(control(field).value.trim()) : undefined),
  nullable: (field) => (control(field).value.trim() ? numberOr(control(field).value.trim()) : null),
  numbers: (field) =>
    control(field)
      .value.split(/[\s,;]+/)
      .filter(Boolean)
      .map(numberOr),
  choice: (field) => JSON.parse(control(field).value),
  boolean: (field) => control(field).checked,
  object: (field, whole) => members(field.querySelector("[data-fields]"), whole),
  optional: (field, whole) => (control(field).checked ? members(field.querySelector("[data-fields]"), whole) : null),
  union: readUnion,
  items: (field, whole) => itemsOf(field).map((item) => valueIn(fieldsIn(item)[0], whole)),
  pairs: (field) =>
    Object.fromEntries(
      itemsOf(field)
        .filter((row) => rowIsUsed(row.firstElementChild))
        .map(pairOf),
    ),
};

/**
 * A choice between objects with a `type`, or between an object and a constant. Where all other fields have their
 * defaults, the type alone is sent.
 */
function readUnion(field, whole) {
  const chosen = control(field).value;
  const part = partsOf(field).find((one) => one.dataset.part === chosen);
  const held = members(part.querySelector("[data-fields]"), whole);
  const typed = field.hasAttribute("data-typed");
  if (!typed) return part.hasAttribute("data-word") ? JSON.parse(chosen) : held;
  return whole || Object.keys(held).length ? { type: JSON.parse(chosen), ...held } : JSON.parse(chosen);
}

function members(place, whole) {
  const held = {};
  for (const field of fieldsIn(place)) {
    const { name, required, default: usual = "null" } = field.dataset;
    const value = valueIn(field, true);
    const counts = value === undefined ? JSON.parse(usual) : value;
    if (whole) held[name] = counts;
    else if (value === undefined) continue;
    else if (required !== undefined || !equal(counts, JSON.parse(usual))) held[name] = valueIn(field, false);
  }
  return held;
}

const itemsOf = (field) => [...field.querySelector("[data-items]").children];
const pairOf = (row) => [row.querySelector("[data-key]").value, row.querySelector("[data-value]").value];
const rowIsUsed = (input) => pairOf(input.closest("[data-item]")).some(Boolean);
const partsOf = (field) => [...field.children].filter((child) => child.dataset.part);

// --- what changes ----------------------------------------------------------------------------------------------------

/** Show the fields of the chosen option. */
function turn(changed) {
  const field = changed.closest("[data-kind]");
  if (!field || control(field) !== changed) return;
  const value = changed.type === "checkbox" ? String(changed.checked) : changed.value;
  for (const part of partsOf(field)) part.hidden = part.dataset.part !== value;
}

let made = 0;

function add(button) {
  const list = button.closest("[data-kind]");
  const item = list.querySelector("template").content.firstElementChild.cloneNode(true);
  made += 1;
  for (const name of ["id", "for", "aria-describedby"]) {
    for (const node of item.querySelectorAll(`[${name}]`)) {
      node.setAttribute(name, node.getAttribute(name).replace("#", `new${made}`));
    }
  }
  list.querySelector("[data-items]").append(item);
  item.querySelector("select, input").focus();
}

/** Remove an entry. The focus moves to its neighbour, or to the button that adds one: it must stay in the form. */
function remove(button) {
  const list = button.closest("[data-kind=items], [data-kind=pairs]");
  const item = button.closest("[data-item]");
  const next = (item.nextElementSibling ?? item.previousElementSibling)?.querySelector("[data-remove]");
  item.remove();
  (next ?? list.querySelector("[data-add]")).focus();
}

/** Set the pointer of each entry, by its index or key; disable the button to add at the maximum number of entries. */
function number(list) {
  const root = list.querySelector("[data-pointer]");
  const { pointer } = root.dataset;
  itemsOf(list).forEach((item, place) => {
    const key = item.querySelector("[data-key]");
    if (key) key.dataset.pointer = `${pointer}/${key.value.replaceAll("~", "~0").replaceAll("/", "~1")}`;
    else
      item
        .querySelectorAll("[data-pointer]")
        .forEach((node) => (node.dataset.pointer = placed(pointer, node.dataset.pointer, place)));
  });
  list.querySelector("[data-add]").disabled = itemsOf(list).length >= Number(root.dataset.most);
}

/** `/augment/#/pixels` or `/augment/3/pixels` -> `/augment/PLACE/pixels` */
function placed(root, pointer, place) {
  const rest = pointer
    .slice(root.length + 1)
    .split("/")
    .slice(1);
  return [root, place, ...rest].join("/");
}
