// Rows of a table, or items of a list, that is polled: an unchanged row keeps its element, and so what is opened or focused in it.

/** Fill `body` with `row(item)` for each item; `key(item)` identifies it. A row is rebuilt when its item changes. */
export function showRows(body, items, { key, row }) {
  const before = new Map([...body.children].map((made) => [made.dataset.key, made]));
  const rows = items.map((item) => {
    const [name, text] = [String(key(item)), JSON.stringify(item)];
    const old = before.get(name);
    if (old?.shown === text) return old;
    const made = row(item);
    made.dataset.key = name;
    made.shown = text;
    return made;
  });
  const focused = body.contains(document.activeElement) && document.activeElement;
  if (rows.length !== body.children.length || rows.some((made, i) => made !== body.children[i]))
    body.replaceChildren(...rows);
  if (focused && document.activeElement !== focused) focusAgain(body, focused);
}

/** A row that was moved or rebuilt has lost the focus: restore it to the same element, or to one of the same name. */
function focusAgain(body, before) {
  const name = (node) => node.ariaLabel || node.textContent;
  const same = body.contains(before)
    ? before
    : [...body.querySelectorAll(before.tagName)].find((node) => name(node) === name(before));
  same?.focus({ preventScroll: true });
}
