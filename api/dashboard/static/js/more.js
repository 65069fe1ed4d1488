// A hint at what is cut off: the edge of a `.scroll` fades where its content continues.

/** For all such places of the page, also those that are added later. */
export function hintAtMore() {
  const sizes = new ResizeObserver((changed) => changed.forEach(({ target }) => show(target.closest(".scroll"))));
  const known = new WeakSet();
  const watch = () => {
    for (const place of document.querySelectorAll(".scroll")) {
      for (const part of [place, ...place.children]) {
        if (!known.has(part)) sizes.observe(part);
        known.add(part);
      }
    }
  };
  new MutationObserver(watch).observe(document.getElementById("main"), { childList: true, subtree: true });
  document.addEventListener("scroll", ({ target }) => target.matches?.(".scroll") && show(target), {
    capture: true,
    passive: true,
  });
  watch();
}

function show(place) {
  const { scrollLeft, clientWidth, scrollWidth } = place;
  place.toggleAttribute("data-more-left", scrollLeft > 1);
  place.toggleAttribute("data-more-right", scrollLeft + clientWidth < scrollWidth - 1);
}
