// Loading the runtime and the model, and running it. Nothing here knows the page.

const RUNTIME = new URL("node_modules/onnxruntime-web/dist/ort.wasm.min.mjs", import.meta.url);

/** An error whose text tells the person at the screen what to do. */
export class LoadError extends Error {}

async function importRuntime() {
  if (typeof WebAssembly === "undefined") {
    throw new LoadError("This browser has no WebAssembly, which the network needs. Some privacy modes switch it off.");
  }
  try {
    return await import(RUNTIME);
  } catch (error) {
    throw new LoadError(`onnxruntime-web cannot be loaded: run npm ci in this folder. (${error.message})`);
  }
}

async function fetched(name) {
  const response = await fetch(new URL(name, import.meta.url)).catch((error) => ({ ok: false, status: error.message }));
  if (!response.ok) {
    throw new LoadError(`${name} cannot be loaded (${response.status}): run make_model.py in this folder.`);
  }
  return response;
}

/** Returns `{facts, runtime, run}`; `facts` is model.json. */
export async function loadNetwork() {
  const ort = await importRuntime();
  ort.env.wasm.numThreads = 1; // several need a cross-origin isolated page, and the network is small
  ort.env.logLevel = "error";
  const facts = await (await fetched("model.json")).json();
  const model = new Uint8Array(await (await fetched("model.onnx")).arrayBuffer());
  let session;
  try {
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  } catch (error) {
    throw new LoadError(
      "The network cannot be started. Either WebAssembly is blocked, or a file of onnxruntime-web is missing: run npm ci." +
        ` (${error.message})`,
    );
  }

  /**
   * Runs an image of 64 whole numbers from 0 to 16 for some time steps.
   *
   * Returns one `{title, neurons, steps, spikes}` a layer, with `spikes[step * neurons + neuron]` 0 or 1.
   */
  async function run(pixels, steps) {
    // Sixteenths, exact in float32; direct coding: the same image at every step.
    const values = new Float32Array(steps * 64);
    for (let step = 0; step < steps; step += 1) values.set(Float32Array.from(pixels, (p) => p / 16), step * 64);
    const input = new ort.Tensor("float32", values, [steps, 1, 1, 8, 8]);
    const outputs = await session.run({ [session.inputNames[0]]: input });
    return session.outputNames.map((name, index) => ({
      ...facts.layers[index],
      neurons: outputs[name].dims[2],
      steps,
      spikes: Uint8Array.from(outputs[name].data),
    }));
  }

  return { facts, runtime: `onnxruntime-web ${ort.env.versions.web ?? ort.env.versions.common}, WASM`, run };
}

/** Spikes of each neuron in the first steps. */
export function countsOf({ neurons, spikes }, until) {
  const counts = new Array(neurons).fill(0);
  for (let index = 0; index < until * neurons; index += 1) counts[index % neurons] += spikes[index];
  return counts;
}
