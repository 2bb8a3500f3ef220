"""Which nodes of a model run as native kernels: those that are faster so than by the functions in the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import onnx

from snn_extreme_quant.deploy.lowering.functions import (
    DOMAIN,
    NeuronFunction,
    is_integer_neuron,
    is_neuron,
    is_shift,
    is_synchronous,
)
from snn_extreme_quant.deploy.runtime.native_attention import fuse_attention
from snn_extreme_quant.deploy.runtime.native_currents import COUNTS, CURRENTS, VALUES, fuse_currents
from snn_extreme_quant.deploy.runtime.native_fusion import FUSED, fuse
from snn_extreme_quant.deploy.runtime.native_soft_attention import fuse_soft_attention
from snn_extreme_quant.deploy.runtime.native_steps import sum_steps_first
from snn_extreme_quant.deploy.runtime.native_whole import fuse_whole_products
from snn_extreme_quant.exported.operators import is_language, is_language_integer

__all__ = ["NativeChoice", "choose_kernels"]

#: Of one or two bits a code; longer names first.
_PACKINGS = ("Binary", "Ternary5", "Ternary")
#: What carries spikes on as they are.
_CARRIES = frozenset(
    {
        "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze",
        "Tile", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
#: Inputs of a window times outputs from which on a convolution's kernel is faster (benchmarks/native_conv.py).
_LARGE_WINDOW = 8192
#: Under this name a kernel is registered a second time, for some nodes of an operator only. No file has it.
_OF_SPIKES = "OfSpikes"
#: Products that are fused with the neurons behind them.
_FUSED_PRODUCTS = ("LinearInteger", "MatMulInteger")
#: Of what integer files of models of tokens compute with: sums in other units.
_SCALES = ("IntScale", "IntResidual")


@dataclass(frozen=True)
class NativeChoice:
    """What takes the functions' place.

    Args:
        operators: operators of which every node does.
        nodes: nodes of further operators, by their first outputs.
        spikes: names of the values that hold nothing but 0, 1 and -1.
        whole_products: whether products of whole numbers of 16 bits are joined; in plain C they would be slower.
    """

    operators: frozenset[str]
    nodes: frozenset[str]
    spikes: frozenset[str] = frozenset()
    whole_products: bool = True

    def applied(
        self, model: onnx.ModelProto, *, own: bool = False, wide: bool = True
    ) -> tuple[onnx.ModelProto, set[str]]:
        """Return a model whose chosen nodes have kernels' names or are fused, and all names to register.

        Args:
            model: stays as it is unless it is our own to change.
            own: whether it is.
            wide: whether the kernels have registers of 512 bits, without which attention of counts is faster apart.
        """
        made = model if own else onnx.ModelProto()
        if not own:
            made.CopyFrom(model)
        names = set(self.operators) | sum_steps_first(made, self.spikes)
        products = {
            node.output[0]
            for node in made.graph.node
            if node.domain == DOMAIN and (node.output[0] in self.nodes or node.op_type in self.operators)
            and node.op_type.removesuffix("Signed").endswith(_FUSED_PRODUCTS)
        }  # fmt: skip
        if self.whole_products:
            names |= fuse_whole_products(made)
        names |= fuse(made, products) | fuse_attention(made, self.spikes)
        names |= fuse_soft_attention(made, self.spikes, counts=wide) | fuse_currents(made, set(self.operators))
        for node in made.graph.node:
            if (
                node.domain == DOMAIN
                and node.output[0] in self.nodes
                and not node.op_type.startswith((FUSED, CURRENTS, COUNTS, VALUES))
            ):
                node.op_type += _OF_SPIKES
                names.add(node.op_type)
        return made, names


def choose_kernels(model: onnx.ModelProto, instruction_set: str = "avx2") -> NativeChoice:
    """Choose the operators and nodes of a model whose native kernels are faster than the functions in the file.

    Neurons, embeddings and what language models compute with always are, but for the products of the latter in plain C;
    so are sums that integer files of models of tokens bring to other units.
    Other products and convolutions are where they read spikes, with codes of one or two
    bits: counts and fixed-point numbers cost a kernel one pass for each bit, and onnxruntime's own integer product one
    in all; real numbers go to its float kernels. Of convolutions those with small windows and few outputs are not.

    Args:
        model: a file's.
        instruction_set: of the kernels, as :attr:`~snn_extreme_quant.deploy.native_status` says it.
    """
    functions = {function.name for function in model.functions if function.domain == DOMAIN}
    always = {
        name
        for name in functions
        if is_integer_neuron(name)
        or is_neuron(name)
        or name.endswith(("Embedding", "EmbeddingInteger"))
        or (name.endswith("LinearRounded") and instruction_set != "portable")
        or is_language(name)
        or is_language_integer(name)
        or name in _SCALES
        or is_synchronous(name)
        or is_shift(name)
    }
    spikes = _spikes(model)
    counting = any(not is_integer_neuron(n) and is_neuron(n) and _float_fire(n) == "count" for n in functions)
    rules: dict[str, Callable[[onnx.NodeProto], bool]] = {
        "LinearInteger": lambda node: not counting and _attribute(node, "grid").f == 1.0,
        "MatMulInteger": lambda node: node.input[0] in spikes,
        "Conv": lambda node: node.input[0] in spikes and _is_large(node),
        "ConvInteger": lambda node: node.input[0] in spikes and _is_large(node),
    }
    rules |= {f"{name}Signed": rule for name, rule in rules.items() if name != "Conv"}
    by_operator: dict[str, list[tuple[str, bool]]] = {}
    for node in model.graph.node:
        packing = next((p for p in _PACKINGS if node.op_type.startswith(p)), "")
        rule = rules.get(node.op_type.removeprefix(packing)) if packing and node.op_type in functions else None
        if node.domain == DOMAIN and rule is not None:
            by_operator.setdefault(node.op_type, []).append((node.output[0], rule(node)))
    whole = {name for name, nodes in by_operator.items() if all(chosen for _, chosen in nodes)}
    single = {output for name, nodes in by_operator.items() if name not in whole for output, chosen in nodes if chosen}
    return NativeChoice(
        frozenset(always | whole), frozenset(single), frozenset(spikes), whole_products=instruction_set != "portable"
    )


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    """An attribute of a node of ours: all are written."""
    found: onnx.AttributeProto = next(attribute for attribute in node.attribute if attribute.name == name)
    return found


def _is_large(node: onnx.NodeProto) -> bool:
    weights = math.prod(_attribute(node, "weight_shape").ints)
    return _attribute(node, "group").i == 1 and weights >= _LARGE_WINDOW


def _float_fire(operator: str) -> str:
    return NeuronFunction.from_name(operator).spec.fire


def _spikes(model: onnx.ModelProto) -> set[str]:
    """Names of the values that hold nothing but 0, 1 and -1, as they are neurons' spikes."""
    spikes: set[str] = set()
    for node in model.graph.node:  # in topological order
        if node.domain == DOMAIN and _fires_spikes(node.op_type):
            spikes.add(node.output[0])
        elif not node.domain and node.op_type in _CARRIES:
            joined = node.input if node.op_type == "Concat" else node.input[:1]
            if spikes.issuperset(joined):
                spikes.update(node.output)
    return spikes


def _fires_spikes(operator: str) -> bool:
    if operator == "SynchronousSpikes":
        return True
    if is_integer_neuron(operator):
        return "_count" not in operator
    if not is_neuron(operator):
        return False
    spec = NeuronFunction.from_name(operator).spec
    return spec.fire != "count" and not spec.graded
