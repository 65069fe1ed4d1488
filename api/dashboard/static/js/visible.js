// Whether the page is visible: a hidden one holds no connection.

/** Resolves when the page is visible. */
export function isVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => {
    document.addEventListener("visibilitychange", function look() {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      done();
    });
  });
}

/** A signal that is aborted when the page is hidden. */
export function untilHidden() {
  const cut = new AbortController();
  document.addEventListener("visibilitychange", () => document.hidden && cut.abort(), { signal: cut.signal });
  return cut.signal;
}
