// Sends a form with files, by XMLHttpRequest, since fetch does not report upload progress.

import { Problem } from "./http.js";
import { root } from "./root.js";

/**
 * POST `form` (FormData) to `address`. Resolves to `{status, json}` of the response, or rejects with a `Problem`.
 * `onProgress(sent, total)`: bytes; `sent === total` once all are sent; `signal` cancels with an AbortError.
 */
export function upload(address, form, { onProgress, signal }) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    let sent = 0;
    request.open("POST", root + address);
    request.setRequestHeader("Accept", "application/json");
    request.responseType = "json";
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      sent = loaded;
      onProgress(loaded, total);
    });
    request.upload.addEventListener("load", ({ total }) => onProgress(total, total));
    request.addEventListener("load", () => {
      if (request.status === 401) location.reload(); // the page then shows the form to sign in
      if (request.status < 300) done({ status: request.status, json: request.response });
      else failed(problemOf(request));
    });
    request.addEventListener("error", () => failed(broken(sent)));
    request.addEventListener("abort", () => failed(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}

function problemOf({ response, status, statusText }) {
  return new Problem(response ?? { status, title: statusText, detail: `The service answered ${status}.` });
}

function broken(sent) {
  const detail = sent
    ? "The connection was lost during the upload. Nothing was stored; upload the files again."
    : "Nothing could be sent. Is the service running, and do the files still exist?";
  return new Problem({ title: "No answer", code: "away", detail });
}
