// A chart without plotly, shown until plotly, which is large, has been loaded.

const [WIDTH, HEIGHT] = [1000, 300];
const SVG = "http://www.w3.org/2000/svg";

/** `lines`: `{x: [], y: [], colour}`. Returns a function that removes the sketch. */
export function sketch(place, lines) {
  const frame = document.createElementNS(SVG, "svg");
  frame.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  frame.setAttribute("preserveAspectRatio", "none");
  frame.setAttribute("aria-hidden", "true");
  frame.classList.add("sketch");
  const [across, up] = [
    scale(
      lines.flatMap(({ x }) => x),
      0,
      WIDTH,
    ),
    scale(
      lines.flatMap(({ y }) => y),
      HEIGHT,
      0,
    ),
  ];
  for (const { x, y, colour } of lines) {
    const line = document.createElementNS(SVG, "polyline");
    const points = x.map((at, i) => [at, y[i]]).filter(([, value]) => value !== null);
    line.setAttribute("points", points.map(([at, value]) => `${across(at)},${up(value)}`).join(" "));
    line.style.stroke = `var(--curve-${colour})`;
    frame.append(line);
  }
  place.append(frame);
  return () => frame.remove();
}

function scale(values, from, to) {
  const [low, high] = values.reduce(
    ([low, high], value) => (value === null ? [low, high] : [Math.min(low, value), Math.max(high, value)]),
    [Infinity, -Infinity],
  );
  return (value) => (from + ((value - low) / (high - low || 1)) * (to - from)).toFixed(1);
}
