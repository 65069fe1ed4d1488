// Calls to the API. An error response is thrown as a `Problem` with the errors of each field.

import { isAway, isBack, showsAway } from "./away.js";
import { withCode } from "./dialog.js";
import { root } from "./root.js";

export class Problem extends Error {
  /** `body`: the problem+json of the response; `retryAfter`: seconds until a retry, from the header, or null. */
  constructor(body, retryAfter = null) {
    super(body.detail || body.title);
    this.name = "Problem";
    Object.assign(this, { status: 0, code: "", title: "", errors: [] }, body, { retryAfter });
  }
}

/** Whether a retry is useless: any 4xx except 429 (rate limit). */
export const isFinal = ({ status }) => status >= 400 && status < 500 && status !== 429;

const AWAY = { title: "No answer", code: "away", detail: "The service does not answer. Is it running?" };

/**
 * Send a request. Resolves to the JSON of the response, or undefined where it has none; rejects with a `Problem`. `json`
 * or `body` is the content to send; `key`: the Idempotency-Key, so that a request that is sent twice is executed once.
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

/** A new Idempotency-Key: one per action of the user. */
export const newKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/**
 * Like `fetch`, but rejects with a `Problem` unless the status is 2xx. On 401 the page reloads and asks for a token.
 * `address`: a path of the service, without the root, or a whole URL.
 */
export async function request(address, options) {
  let answer;
  try {
    answer = await fetch(address.startsWith("/") ? root + address : address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const problem = new Problem(AWAY);
    isAway(problem);
    throw problem;
  }
  if (answer.status === 401) location.reload(); // the page then shows the form to sign in
  const problem = answer.ok ? null : await problemOf(answer);
  if (problem && showsAway(answer.status, problem)) isAway(problem);
  else isBack();
  if (problem) throw problem;
  return answer;
}

async function problemOf(answer) {
  const retryAfter = Number(answer.headers.get("Retry-After")) || null;
  try {
    return new Problem(await answer.json(), retryAfter);
  } catch {
    return new Problem(
      {
        status: answer.status,
        title: answer.statusText,
        code: undefined,
        detail: `The service answered ${answer.status}.`,
      },
      retryAfter,
    );
  }
}

/**
 * Show a problem in a form: each error next to the field with its `data-pointer="/lr"` or `name="lr"`, all others in the
 * form's `.summary`. Returns the first field with an error, or null.
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
  if (summary) summary.replaceChildren(...withCode(rest.join("; ")));
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

/** The visible field with this pointer; for `/a/b/c` also the one at `/a/b` or `/a`; null if there is none. */
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
    document.getElementById(`${field.id}-wrong`).append("; ", ...withCode(detail));
    return;
  }
  field.id ||= `field-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const message = document.createElement("p");
  message.className = "error";
  message.dataset.error = "";
  message.id = `${field.id}-wrong`;
  message.append(...withCode(detail));
  (field.closest(".field") ?? field.parentElement).append(message);
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", `${field.getAttribute("aria-describedby") ?? ""} ${message.id}`.trim());
}
