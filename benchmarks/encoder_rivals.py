"""What a user of onnxruntime would pick instead of packed spiking layers, made from the float file of the same weights.

* dynamic int8: onnxruntime's own ``quantize_dynamic``, 8-bit weights by channel, activations quantised while it runs;
* ``MatMulNBits`` of 2 and 4 bit: onnxruntime's operator for weight-only quantisation, with our ternary codes and scales
  put in exactly (its own quantiser finds scales anew and does not keep ternary weights), blocks of 128, 8-bit
  activations (``accuracy_level`` 4, its fast path).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

__all__ = ["dynamic_int8", "n_bits"]

BLOCK = 128


def dynamic_int8(source: Path, target: Path) -> None:
    """Quantise a float file with onnxruntime's own tool."""
    plain = target.with_suffix(".plain.onnx")
    onnx.save(inliner.inline_local_functions(onnx.load(source)), plain)  # the tool does not look into functions
    quantize_dynamic(plain, target, per_channel=True, weight_type=QuantType.QInt8)
    plain.unlink()


def n_bits(source: Path, target: Path, bits: int) -> None:
    """Put ``MatMulNBits`` in the place of each product with a constant weight; codes are -1, 0 and 1."""
    model = onnx.load(source)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            continue
        name = node.input[1]
        weight = numpy_helper.to_array(weights[name])
        k, n = weight.shape
        scale = np.abs(weight).max(0)
        codes = np.round(weight / scale).astype(np.int64).T.reshape(n, k // BLOCK, BLOCK) + 2 ** (bits - 1)
        per_byte = 8 // bits
        digits = codes.reshape(n, k // BLOCK, BLOCK // per_byte, per_byte)
        packed = (digits << (bits * np.arange(per_byte))).sum(-1).astype(np.uint8)
        model.graph.initializer.remove(weights[name])
        scales = np.repeat(scale[:, None], k // BLOCK, 1).astype(np.float32)
        model.graph.initializer.extend(
            [numpy_helper.from_array(packed, f"{name}.packed"), numpy_helper.from_array(scales, f"{name}.scales")]
        )
        replacement = helper.make_node(
            "MatMulNBits",
            [node.input[0], f"{name}.packed", f"{name}.scales"],
            list(node.output),
            name=node.name,
            domain="com.microsoft",
            K=k,
            N=n,
            bits=bits,
            block_size=BLOCK,
            accuracy_level=4,
        )
        node.CopyFrom(replacement)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, target)
