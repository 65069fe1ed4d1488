// A table as a CSV file (RFC 4180), with numbers that are not rounded.

// Spreadsheets evaluate a cell that begins with one of these, also after spaces, and also in its wide form.
const FORMULA = /^\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/;
const NUMBER = /^-?\d+(\.\d+)?([eE][-+]?\d+)?$/;
const SEPARATOR = /[",;'\t\r\n]/; // some spreadsheets separate cells by semicolons or tabs

export function toCsv(rows) {
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

/** A text that a spreadsheet would evaluate gets an apostrophe before it, as OWASP recommends; numbers stay numbers. */
function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  if (NUMBER.test(text)) return text;
  const plain = FORMULA.test(text) ? `'${text}` : text;
  return SEPARATOR.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}

/** Save a text as a file, as a download. */
export function save(text, fileName, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = fileName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // the download has started by then
}
