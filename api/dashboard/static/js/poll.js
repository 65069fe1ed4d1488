// Polling, for pages that follow more than one stream could: paused while the page is hidden, slower while there is no
// answer.

const LONGEST_PAUSE_MS = 15000;

/**
 * Calls `ask(signal)` now, and again `ms` after it has finished. `onState` is called with `live`, or with `away` and the
 * error if it fails. Returns `{now, stop}`: `now` polls at once, or as soon as the current call has finished.
 */
export function poll(ms, ask, onState = () => {}) {
  const cut = new AbortController();
  let failures = 0;
  let wake = () => {};
  let again = false;

  async function run() {
    while (!cut.signal.aborted) {
      again = false;
      try {
        await ask(cut.signal);
        failures = 0;
        onState("live");
      } catch (error) {
        if (cut.signal.aborted) return;
        failures += 1;
        onState("away", error);
      }
      if (!again) await rest(Math.min(ms * 2 ** failures, Math.max(ms, LONGEST_PAUSE_MS)));
    }
  }

  /** Resolves after `length` ms, or when `now` is called; in a hidden page not before it is visible again. */
  function rest(length) {
    return new Promise((done) => {
      let over = false;
      const timer = setTimeout(() => {
        over = true;
        look();
      }, length);
      const look = () => over && !document.hidden && wake();
      wake = () => {
        clearTimeout(timer);
        document.removeEventListener("visibilitychange", look);
        done();
      };
      document.addEventListener("visibilitychange", look);
    });
  }

  function now() {
    again = true;
    wake();
  }

  function stop() {
    cut.abort();
    wake();
  }

  run();
  return { now, stop };
}
