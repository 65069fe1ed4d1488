// The path below which a proxy serves gradq, as "/gradq", or "": the addresses that scripts put into the page, or go to,
// begin with it. http.js and upload.js add it to what they request.

export const root = document.documentElement.dataset.root ?? "";
