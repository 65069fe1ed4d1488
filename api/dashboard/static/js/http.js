// Calls to the API. What it refuses becomes a `Problem` that says what is wrong, field by field.

export class Problem extends Error {
  /** `body`: the problem+json of the answer; `retryAfter`: seconds, where it says when to ask again. */
  constructor(body, retryAfter = null) {
    super(body.detail || body.title);
    this.name = "Problem";
    Object.assign(this, { status: 0, code: "", title: "", errors: [] }, body, { retryAfter });
  }
}

/** Deleted, not ours, or wrong: asking again is no use. Of those that are, one only came too often. */
export const isFinal = ({ status }) => status >= 400 && status < 500 && status !== 429;

const AWAY = { title: "No answer", code: "away", detail: "The service does not answer. Is it running?" };

/**
 * Send a request; the answer's JSON, or nothing where it has none. `json` or `body` is what to send, `key` an
 * Idempotency-Key, so that a request that is sent twice is done once.
 */
export async function call(method, address, { json, body, headers = {}, key, signal } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (json !== undefined) sent["Content-Type"] = "application/json";
  if (key !== undefined) sent["Idempotency-Key"] = key;
  const answer = await request(address, {
    method,
    headers: sent,
    signal,
    body: json === undefined ? body : JSON.stringify(json),
  });
  return answer.headers.get("Content-Type")?.includes("json") ? answer.json() : undefined;
}

export const get = (address, options) => call("GET", address, options);
export const post = (address, json, options) => call("POST", address, { json, ...options });

/** A fresh Idempotency-Key: one for each thing that a reader wants done. */
export const newKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** As `fetch`, with a `Problem` for every answer that is no success. Without a valid token the page asks for one. */
export async function request(address, options) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(AWAY);
  }
  if (answer.ok) return answer;
  if (answer.status === 401) location.reload(); // the page itself answers with the form to sign in
  throw await problemOf(answer);
}

async function problemOf(answer) {
  const retryAfter = Number(answer.headers.get("Retry-After")) || null;
  try {
    return new Problem(await answer.json(), retryAfter);
  } catch {
    return new Problem(
      { status: answer.status, title: answer.statusText, detail: `The service answered ${answer.status}.` },
      retryAfter,
    );
  }
}

/**
 * Show a problem in a form: each wrong field's message beside the field that has `data-pointer="/lr"` or that name, all
 * others in its `.summary`. Returns the first wrong field.
 */
export function showProblem(form, problem) {
  clearProblem(form);
  const rest = [];
  let first = null;
  for (const { pointer, detail } of problem.errors.length
    ? problem.errors
    : [{ pointer: "", detail: problem.message }]) {
    const field = fieldAt(form, pointer);
    if (field) {
      first ??= field;
      mark(field, detail);
    } else {
      rest.push(pointer ? `${pointer.slice(1)}: ${detail}` : detail);
    }
  }
  const summary = form.querySelector(".summary");
  if (summary) summary.textContent = rest.join("; ");
  return first;
}

export function clearProblem(form) {
  form.querySelectorAll("[data-error]").forEach((message) => message.remove());
  form.querySelectorAll("[aria-invalid]").forEach((field) => {
    field.removeAttribute("aria-invalid");
    const others = (field.getAttribute("aria-describedby") ?? "")
      .split(" ")
      .filter((id) => id && !id.endsWith("-wrong"));
    if (others.length) field.setAttribute("aria-describedby", others.join(" "));
    else field.removeAttribute("aria-describedby");
  });
  const summary = form.querySelector(".summary");
  if (summary) summary.textContent = "";
}

/** The field at the pointer, of those that are not hidden; else, of `/a/b/c`, the one at `/a/b` or `/a`. */
function fieldAt(form, pointer) {
  for (let path = pointer; path; path = path.slice(0, path.lastIndexOf("/"))) {
    const all = form.querySelectorAll(`[data-pointer="${CSS.escape(path)}"], [name="${CSS.escape(path.slice(1))}"]`);
    const found = [...all].find((field) => !field.closest("[hidden]"));
    if (found) return found;
  }
  return null;
}

function mark(field, detail) {
  if (field.hasAttribute("aria-invalid")) {
    document.getElementById(`${field.id}-wrong`).textContent += `; ${detail}`;
    return;
  }
  field.id ||= `field-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const message = document.createElement("p");
  message.className = "error";
  message.dataset.error = "";
  message.id = `${field.id}-wrong`;
  message.textContent = detail;
  (field.closest(".field") ?? field.parentElement).append(message);
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", `${field.getAttribute("aria-describedby") ?? ""} ${message.id}`.trim());
}
