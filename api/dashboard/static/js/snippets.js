// A job's body as people send it: JSON, a line for the shell, a few lines of Python.

const NUMBERS = /\[\n[^[\]{}"]*\]/g; // lists that hold nothing else

/** Indented, but for numbers side by side. */
export const json = (body) => JSON.stringify(body, null, 2).replace(NUMBERS, (list) => list.replace(/\s+/g, " ").replace(/(?<=\[) | (?=\])/g, ""));

export function curl(body, origin) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  return [`curl ${origin}/v1/jobs \\`, "  -H 'Content-Type: application/json' \\", `  -d '${quoted}'`].join("\n");
}

export function python(body, origin) {
  const entries = Object.entries(body).map(([name, value]) => `    ${name}=${literal(value)},`);
  const call = entries.length ? ["job = client.submit(", ...entries, ")"] : ["job = client.submit()"];
  return ["from gradq import Client", "", `client = Client("${origin}")`, ...call, "job.wait()", "print(job.result)"].join("\n");
}

/** A value of JSON as Python writes it. A text is the same in both. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, one]) => `${literal(key)}: ${literal(one)}`).join(", ")}}`;
  return JSON.stringify(value);
}
