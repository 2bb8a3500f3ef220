// Runs one case on any of onnxruntime's JavaScript packages: in node, and as a module of a page.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int64: BigInt64Array, uint64: BigUint64Array, int32: Int32Array,
  uint32: Uint32Array, int16: Int16Array, uint16: Uint16Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array,
};

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

function base64Of(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  }
  return btoa(text);
}

function tensorOf(ort, { type, dims, data }) {
  return new ort.Tensor(type, new ARRAYS[type](bytesOf(data).buffer), dims);
}

function jsonOf(tensor) {
  const { buffer, byteOffset, byteLength } = tensor.data;
  return {
    type: tensor.type,
    dims: Array.from(tensor.dims),
    data: base64Of(new Uint8Array(buffer, byteOffset, byteLength)),
  };
}

/** Returns `{outputs}`, or `{error}` if the file does not load or run. */
export async function runCase(ort, options, file, inputs) {
  try {
    const session = await ort.InferenceSession.create(file, options);
    const feeds = Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, tensorOf(ort, value)]));
    const outputs = await session.run(feeds);
    await session.release();
    return { outputs: Object.fromEntries(Object.entries(outputs).map(([name, value]) => [name, jsonOf(value)])) };
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}
