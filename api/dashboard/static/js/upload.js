// Send a form with files. By XMLHttpRequest, since fetch does not say how much has been sent.

import { Problem } from "./http.js";

/**
 * POST `form` (FormData) to `address`; `{status, json}` of the answer, or a thrown `Problem`. `onProgress(sent, total)`: bytes,
 * `sent === total` once the service has all of them; `signal` cancels with an AbortError.
 */
export function upload(address, form, { onProgress, signal }) {
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    let sent = 0;
    request.open("POST", address);
    request.setRequestHeader("Accept", "application/json");
    request.responseType = "json";
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      sent = loaded;
      onProgress(loaded, total);
    });
    request.upload.addEventListener("load", ({ total }) => onProgress(total, total));
    request.addEventListener("load", () => {
      if (request.status === 401) location.reload(); // the page itself answers with the form to sign in
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
    ? "The connection broke while the files were sent. Nothing of them is kept; send them again."
    : "Nothing could be sent. Is the service running, and are the files still where they were?";
  return new Problem({ title: "No answer", code: "away", detail });
}
