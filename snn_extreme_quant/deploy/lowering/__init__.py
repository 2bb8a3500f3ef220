"""From a recorded graph to an ONNX model: the operators, their bodies, and what keeps runtimes from changing them."""
