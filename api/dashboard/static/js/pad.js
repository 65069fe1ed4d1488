// A canvas to draw on with mouse, pen or finger. It keeps strokes rather than pixels, so that they can be undone, and
// drawn at any size.

const PEN = 0.07; // of the pad's side

export class Pad {
  /**
   * `onChange(strokes)` is called after each change, and when a stroke ends. A stroke is a list of points [x, y], each
   * from 0 to 1.
   */
  constructor(canvas, onChange) {
    Object.assign(this, { canvas, onChange, strokes: [], pointer: null });
    canvas.addEventListener("pointerdown", (event) => this.begin(event));
    canvas.addEventListener("pointermove", (event) => this.go(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.end(event));
    new ResizeObserver(() => this.fit()).observe(canvas);
    document.addEventListener("themechange", () => this.paint());
  }

  undo() {
    this.change(() => this.strokes.pop());
  }

  clear() {
    this.change(() => (this.strokes = []));
  }

  begin(event) {
    if (event.button !== 0 || this.pointer !== null) return; // a second finger does not draw
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.change(() => this.strokes.push([this.at(event)]));
  }

  go(event) {
    if (event.pointerId !== this.pointer) return;
    const steps = event.getCoalescedEvents?.() ?? []; // points between two frames
    this.change(() => this.strokes.at(-1)?.push(...(steps.length ? steps : [event]).map((step) => this.at(step))));
  }

  end(event) {
    if (event.pointerId !== this.pointer) return;
    this.pointer = null;
    this.onChange(this.strokes);
  }

  get drawing() {
    return this.pointer !== null;
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  change(how) {
    how();
    this.paint();
    this.onChange(this.strokes);
  }

  fit() {
    const side = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (side && side !== this.canvas.width) this.canvas.width = this.canvas.height = side;
    this.paint();
  }

  paint() {
    const { width } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, width);
    context.strokeStyle = getComputedStyle(this.canvas).color;
    trace(context, this.strokes, PEN * width, ([x, y]) => [x * width, y * width]);
  }
}

/** Draw strokes as lines of this width, with points transformed by `map`. A single point is a dot. */
export function trace(context, strokes, width, map) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round" });
  context.beginPath();
  for (const stroke of strokes) {
    const [[x, y], ...rest] = stroke.map(map);
    context.moveTo(x, y);
    context.lineTo(x + width / 100, y); // a canvas does not draw lines of length 0
    for (const point of rest) context.lineTo(...point);
  }
  context.stroke();
}
