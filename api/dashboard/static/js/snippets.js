// The body of a job as JSON, as a curl command, and as Python code.

const NUMBERS = /\[\n[^[\]{}"]*\]/g; // indented lists of numbers

/** Indented JSON, with lists of numbers on one line. */
export const json = (body) =>
  JSON.stringify(body, null, 2).replace(NUMBERS, (list) => list.replace(/\s+/g, " ").replace(/(?<=\[) | (?=\])/g, ""));

/** `token`: whether the service requires one; it is read from GRADQ_TOKEN, as the Python client does. */
export function curl(body, origin, token) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const bearer = token ? ['  -H "Authorization: Bearer $GRADQ_TOKEN" \\'] : [];
  return [`curl ${origin}/v1/jobs \\`, "  -H 'Content-Type: application/json' \\", ...bearer, `  -d '${quoted}'`].join(
    "\n",
  );
}

export function python(body, origin) {
  const entries = Object.entries(body).map(([name, value]) => `    ${name}=${literal(value)},`);
  const call = entries.length ? ["job = client.submit(", ...entries, ")"] : ["job = client.submit()"];
  return [
    "from gradq import Client",
    "",
    `client = Client("${origin}")`,
    ...call,
    "job.wait()",
    "print(job.result)",
  ].join("\n");
}

/** A JSON value as a Python literal. Strings are the same in both. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object")
    return `{${Object.entries(value)
      .map(([key, one]) => `${literal(key)}: ${literal(one)}`)
      .join(", ")}}`;
  return JSON.stringify(value);
}
