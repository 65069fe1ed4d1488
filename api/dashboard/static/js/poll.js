// Ask again and again, for pages that follow more than a stream could: not while nobody looks, and slower while there is
// no answer.

const LONGEST_PAUSE_MS = 15000;

/**
 * `ask(signal)` now, and again `ms` after it is done. `onState` is told `live`, or `away` with the problem where it throws.
 * Returns `{now, stop}`: `now` asks at once, after whatever is under way.
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

  /** Until the time is over, or `now` is called; a hidden page rests until it is seen again. */
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
