// The spike rasters: for each layer a canvas with one pixel a neuron and time step.

const ROW_LINES = 64; // rows are set apart by lines up to this number

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Colours of the style sheet, as numbers. */
function colours(of) {
  const style = getComputedStyle(of);
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  return ["--rest", "--spike"].map((name) => {
    probe.fillStyle = style.getPropertyValue(name);
    probe.fillRect(0, 0, 1, 1);
    return probe.getImageData(0, 0, 1, 1).data;
  });
}

function paint(canvas, { neurons, steps, spikes }) {
  Object.assign(canvas, { width: steps, height: neurons });
  const context = canvas.getContext("2d");
  const image = context.createImageData(steps, neurons);
  const colour = colours(canvas);
  for (let step = 0; step < steps; step += 1) {
    for (let neuron = 0; neuron < neurons; neuron += 1) {
      image.data.set(colour[spikes[step * neurons + neuron]], 4 * (neuron * steps + step));
    }
  }
  context.putImageData(image, 0, 0);
}

function figureOf(layer, last) {
  const canvas = element("canvas", { role: "img" });
  const plane = element("div", { className: "plane" }, canvas, element("div", { className: "later" }));
  plane.classList.toggle("rows", layer.neurons <= ROW_LINES);
  const labels = element("div", { className: "labels", ariaHidden: "true" });
  if (last) for (let digit = 0; digit < layer.neurons; digit += 1) labels.append(element("span", {}, String(digit)));
  const ends = [element("span", {}, "step 1"), element("span")];
  const body = element("div", {}, plane, element("div", { className: "axis", ariaHidden: "true" }, ...ends));
  const shown = last ? element("div", { className: "labelled" }, labels, body) : body;
  return element("figure", {}, element("figcaption"), shown);
}

/** Shows all layers, with the steps behind `until` dimmed. */
export function showRasters(container, layers, until) {
  if (container.childElementCount !== layers.length) {
    container.replaceChildren(...layers.map((layer, index) => figureOf(layer, index === layers.length - 1)));
  }
  layers.forEach((layer, index) => {
    const figure = container.children[index];
    const { neurons, steps, spikes, title } = layer;
    const fired = spikes.subarray(0, until * neurons).reduce((sum, spike) => sum + spike, 0);
    const rate = ((100 * fired) / (until * neurons)).toFixed(1);
    const name = `${title}, ${neurons} neurons`;
    const text = `${fired.toLocaleString("en")} spikes, ${rate} % a step`;
    figure.querySelector("figcaption").replaceChildren(element("strong", {}, name), element("span", {}, text));
    const plane = figure.querySelector(".plane");
    for (const [key, value] of Object.entries({ steps, neurons, until })) plane.style.setProperty(`--${key}`, value);
    const canvas = plane.querySelector("canvas");
    canvas.ariaLabel = `Spike raster, ${name}: ${text}`;
    paint(canvas, layer);
    figure.querySelector(".axis").lastChild.textContent = String(steps);
  });
}
