// A pad to draw on with whatever points: mouse, pen, finger. Keeps strokes, not pixels, so that they can be taken back and
// drawn again at any size.

const PEN = 0.07; // of the pad's side

export class Pad {
  /**
   * `onChange(strokes)`: each time that something is drawn or taken back, and when a stroke ends. A stroke: points
   * [x, y], each in 0 … 1.
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
    if (event.button !== 0 || this.pointer !== null) return; // a second finger draws nothing
    this.pointer = event.pointerId;
    this.canvas.setPointerCapture(event.pointerId);
    this.change(() => this.strokes.push([this.at(event)]));
  }

  go(event) {
    if (event.pointerId !== this.pointer) return;
    const steps = event.getCoalescedEvents?.() ?? []; // what the screen's rate left out
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

/** Strokes as lines of this width, their points moved by `map`. A point alone is a dot. */
export function trace(context, strokes, width, map) {
  Object.assign(context, { lineWidth: width, lineCap: "round", lineJoin: "round" });
  context.beginPath();
  for (const stroke of strokes) {
    const [[x, y], ...rest] = stroke.map(map);
    context.moveTo(x, y);
    context.lineTo(x + width / 100, y); // a canvas leaves out lines that lead nowhere
    for (const point of rest) context.lineTo(...point);
  }
  context.stroke();
}
