// The page: draws what the person draws, asks the network, shows what it says and every spike.

import { countsOf, LoadError, loadNetwork } from "./network.js";
import { Pad } from "./pad.js";
import { showRasters } from "./raster.js";
import { pixelsOf } from "./strokes.js";

const at = (id) => document.getElementById(id);

let network;
let source = () => new Uint8Array(64); // makes the newest pixels
let pixels = new Uint8Array(64);
let layers = null;
let waiting = false;
let running = false;

function fail(error) {
  const status = at("status");
  status.className = "error";
  status.setAttribute("role", "alert");
  status.textContent = error instanceof LoadError ? error.message : `Something went wrong: ${error.message ?? error}`;
}

function paintPixels(canvas, values) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, 8, 8);
  context.fillStyle = getComputedStyle(canvas).color;
  values.forEach((value, index) => {
    context.globalAlpha = value / 16;
    context.fillRect(index % 8, Math.floor(index / 8), 1, 1);
  });
}

function showScores(counts, steps) {
  at("scores").replaceChildren(
    ...counts.map((count, digit) => {
      const line = document.createElement("li");
      line.innerHTML = `<span>${digit}</span><span class="bar"><span></span></span><span class="count">${count}</span>`;
      line.querySelector(".bar span").style.width = `${(100 * count) / steps}%`;
      line.classList.toggle("best", count > 0 && digit === counts.indexOf(Math.max(...counts)));
      return line;
    }),
  );
}

/** Shows the answer and the rasters up to the chosen step. */
function show() {
  if (!layers) return;
  const until = Math.min(Number(at("until").value), layers[0].steps);
  at("until-value").textContent = `${until} of ${layers[0].steps}`;
  at("seen").ariaLabel = pixels.some(Boolean) ? "The digit on 8 x 8 pixels" : "Nothing yet";
  paintPixels(at("seen"), pixels);
  const counts = countsOf(layers.at(-1), until);
  const most = Math.max(...counts);
  const equals = counts.filter((count) => count === most).length;
  const drawn = pixels.some(Boolean);
  at("answer").textContent = drawn && most ? String(counts.indexOf(most)) : "–";
  at("answer-note").textContent = !drawn
    ? "Spikes of the ten output neurons"
    : !most
      ? "No output neuron fired: the network does not know."
      : `${most} of ${until} steps${equals > 1 ? `, as ${equals - 1} other: the first of equals` : ""}`;
  showScores(counts, until);
  showRasters(at("rasters"), layers, until);
  const spikes = layers.reduce((sum, layer) => sum + countsOf(layer, until).reduce((a, b) => a + b, 0), 0);
  at("totals").textContent = `${spikes.toLocaleString("en")} spikes in ${until} steps, all layers.`;
}

const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

/** Runs the network on the newest pixels, at most once a frame; calls in between wait together for one more run. */
async function classify() {
  waiting = true;
  if (running) return;
  running = true;
  try {
    while (waiting) {
      await nextFrame();
      waiting = false;
      const [image, steps] = [source(), Number(at("steps").value)];
      const start = performance.now();
      const found = await network.run(image, steps);
      pixels = image;
      at("runtime").textContent = `${network.runtime}, ${(performance.now() - start).toFixed(1)} ms ·`;
      layers = found;
      show();
      // For whoever embeds the page, or tests it.
      document.dispatchEvent(new CustomEvent("classified", { detail: { pixels: [...image], steps, layers } }));
    }
  } catch (error) {
    fail(error);
  } finally {
    running = false;
  }
}

function classifyPixels(from) {
  source = from;
  classify();
}

function setSteps() {
  const steps = at("steps").value;
  at("steps-value").textContent = steps;
  at("until").max = steps;
  at("until").value = steps;
  classify();
}

function addExamples(pad) {
  network.facts.examples.forEach((image, digit) => {
    const button = document.createElement("button");
    button.type = "button";
    button.ariaLabel = `Scanned ${digit}`;
    const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
    button.append(canvas);
    button.addEventListener("click", () => {
      pad.show(image);
      classifyPixels(() => image);
    });
    at("examples").append(button);
    paintPixels(canvas, image);
  });
}

async function start() {
  network = await loadNetwork();
  const pad = new Pad(at("pad"), () => classifyPixels(() => pixelsOf(pad.strokes)));
  addExamples(pad);
  at("undo").addEventListener("click", () => pad.undo());
  at("clear").addEventListener("click", () => pad.clear());
  at("steps").addEventListener("input", setSteps);
  at("until").addEventListener("input", show);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    document.querySelectorAll(".examples canvas").forEach((canvas, digit) => {
      paintPixels(canvas, network.facts.examples[digit]);
    });
    show();
  });
  at("steps").value = network.facts.steps;
  at("app").inert = false;
  at("status").textContent = "";
  setSteps();
}

start().catch(fail);
