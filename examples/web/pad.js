// The drawing area: strokes by pointer or keyboard, or an image that was put in.

const KEY_STEP = 1 / 24;
const PEN = 0.055;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  strokes = [];
  #canvas;
  #context;
  #onChange;
  #pointer = null;
  #pen = { at: [0.5, 0.5], down: false, shown: false }; // the keyboard's
  #image = null;

  /** `onChange` is called whenever the strokes change. */
  constructor(canvas, onChange) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.#onChange = onChange;
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.#release(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => this.#showPen(canvas.matches(":focus-visible")));
    canvas.addEventListener("blur", () => this.#showPen(false));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.draw();
  }

  clear() {
    this.#begin();
    this.strokes = [];
    this.#changed();
  }

  undo() {
    this.#begin();
    this.strokes.pop();
    this.#changed();
  }

  /** Shows an image of 64 pixels in place of strokes. */
  show(pixels) {
    this.#begin();
    this.strokes = [];
    this.#image = pixels;
    this.draw();
  }

  draw() {
    const { width } = this.#canvas;
    const style = getComputedStyle(this.#canvas);
    const context = this.#context;
    context.clearRect(0, 0, width, width);
    context.fillStyle = context.strokeStyle = style.color;
    this.#image?.forEach((value, index) => {
      context.globalAlpha = value / 16;
      context.fillRect((index % 8) * (width / 8), Math.floor(index / 8) * (width / 8), width / 8, width / 8);
    });
    context.globalAlpha = 1;
    Object.assign(context, { lineWidth: PEN * width, lineCap: "round", lineJoin: "round" });
    for (const [first, ...rest] of this.strokes) {
      context.beginPath();
      context.moveTo(first[0] * width, first[1] * width);
      for (const [x, y] of rest.length ? rest : [first]) context.lineTo(x * width, y * width);
      context.stroke();
    }
    if (this.#pen.shown) this.#drawPen(width, style.getPropertyValue("--accent"));
  }

  #drawPen(width, colour) {
    const [x, y] = this.#pen.at;
    const context = this.#context;
    Object.assign(context, { lineWidth: 4, strokeStyle: colour, fillStyle: colour });
    context.beginPath();
    context.arc(x * width, y * width, (PEN * width) / 2, 0, 2 * Math.PI);
    if (this.#pen.down) context.fill();
    else context.stroke();
  }

  #showPen(shown) {
    this.#pen.shown = shown;
    this.draw();
  }

  /** Whatever is under way ends: a stroke, the pen on the paper, an image. */
  #begin() {
    this.#pointer = null;
    this.#pen.down = false;
    this.#image = null;
  }

  #changed() {
    this.draw();
    this.#onChange();
  }

  #position(event) {
    const box = this.#canvas.getBoundingClientRect();
    const inside = (value) => Math.min(1, Math.max(0, value));
    return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
  }

  #press(event) {
    if (event.button !== 0 || this.#pointer !== null) return;
    this.#begin();
    this.#pen.shown = false;
    this.#pointer = event.pointerId;
    this.#canvas.setPointerCapture(event.pointerId);
    this.strokes.push([this.#position(event)]);
    this.#changed();
  }

  #drag(event) {
    if (event.pointerId !== this.#pointer) return;
    this.strokes.at(-1).push(this.#position(event));
    this.#changed();
  }

  #release(event) {
    if (event.pointerId === this.#pointer) this.#pointer = null;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pen = this.#pen;
    pen.shown ||= event.key in MOVES || event.key === " ";
    if (event.key in MOVES) {
      pen.at = pen.at.map((value, axis) => Math.min(1, Math.max(0, value + MOVES[event.key][axis] * KEY_STEP)));
      if (pen.down) this.strokes.at(-1).push(pen.at);
      if (pen.down) this.#changed();
      else this.draw();
    } else if (event.key === " ") {
      const down = !pen.down;
      this.#begin();
      pen.down = down;
      if (down) this.strokes.push([pen.at]);
      this.#changed();
    } else if (event.key === "Backspace") this.undo();
    else if (event.key === "Escape") this.clear();
    else return;
    event.preventDefault();
  }
}
