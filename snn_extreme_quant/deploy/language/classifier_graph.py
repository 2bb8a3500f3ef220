"""A SpikeGPT that classifies as an ONNX graph: whole texts with their pads in, a logit for each class out.

Each text begins with the state of 0, and pads stand behind it, so that no neuron of a token sees them: nothing of the
state goes in or out, and the mask is read at the end alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from snn_extreme_quant.deploy.language.graph import GptGraph
from snn_extreme_quant.deploy.language.integer_graph import IntegerGptGraph
from snn_extreme_quant.models.gpt.integer_parts import input_units
from snn_extreme_quant.models.gpt.state import state_shapes

__all__ = ["CLASSIFIER_INPUTS", "ClassifierGraph", "IntegerClassifierGraph"]

#: What a file takes, as tokenizers name it.
CLASSIFIER_INPUTS = ("input_ids", "attention_mask")
_IDS, _MASK = CLASSIFIER_INPUTS
_FLOAT, _INT32, _INT64, _DOUBLE = 1, 6, 7, 11


class ClassifierGraph(GptGraph):
    """The graph of a classifier: other ends than a language model's."""

    @cached_property
    def _made(self) -> dict[tuple[np.dtype[Any], int], str]:
        """The zeros that there are."""
        return {}

    def _ids(self) -> str:
        writer = self.writer
        ids, _ = (writer.input(name, np.int64, ("B", "L")) for name in (_IDS, _MASK))
        return writer.op("Transpose", ids, perm=[1, 0])

    def _states(self) -> dict[str, list[str]]:
        """Return the state that every text begins with: 0, for as many texts as there are."""
        shapes = state_shapes(self.model.config).items()
        return {name: [self._zeros(self._type(name), width)] * layers for name, (layers, width) in shapes}

    def _zeros(self, dtype: np.dtype[Any], width: int) -> str:
        writer = self.writer
        if (dtype, width) not in self._made:
            first, last = (writer.constant(np.array([size])) for size in (1, width))
            shape = writer.op("Concat", first, self._texts(), last, axis=0)
            zeros = writer.op("Expand", writer.constant(np.zeros((1, 1, 1), dtype)), shape)
            self._made[dtype, width] = writer.shaped(zeros, dtype, (1, "B", width))
        return self._made[dtype, width]

    def _texts(self) -> str:
        """Return how many texts there are, as a list of one number."""
        return self.writer.op("Shape", _IDS, start=0, end=1)

    def _kept(self, x: str) -> str:
        """Return nothing: nobody goes on behind a text."""
        del x
        return ""

    def _give(self, features: str, after: Mapping[str, list[str]]) -> None:
        del after
        config = self.model.config
        y = self._logits_of_mean(features) if config.head == "mean" else self._logits_of(self._ends_of(features))
        self.writer.output(self._squeezed(y), "logits", np.float32, ("B", config.classes))

    def _lengths(self) -> str:
        """Return how many tokens each text has, int64 ``(B, 1)``."""
        return self.writer.op("ReduceSum", _MASK, self.writer.constant(np.array([1])), keepdims=1)

    def _inside(self, x: str, dtype: int) -> str:
        """Return x ``(L, B, width)`` with 0 at pads."""
        writer = self.writer
        real = writer.op("Cast", writer.op("Transpose", _MASK, perm=[1, 0]), to=dtype)
        return writer.op("Mul", x, writer.op("Unsqueeze", real, writer.constant(np.array([2]))))

    def _sums(self, x: str, dtype: int) -> str:
        """Return sums over all tokens, ``(1, B, width)``, in a type in which they are exact."""
        first = self.writer.constant(np.array([0]))
        return self.writer.op("ReduceSum", self.writer.op("Cast", x, to=dtype), first, keepdims=1)

    def _ends_of(self, x: str) -> str:
        """Return the entry of each text's last token, ``(1, B, width)``."""
        writer, width = self.writer, self.model.config.hidden
        none, one = (writer.constant(np.int64(value)) for value in (0, 1))
        batch = writer.op("Squeeze", self._texts(), writer.constant(np.array([0])))
        before = writer.op("Sub", self._row(self._lengths()), one)
        places = writer.op("Add", writer.op("Mul", before, batch), writer.op("Range", none, batch, one))
        found = writer.op("Gather", self._reshaped(x, -1, width), places, axis=0)
        return self._reshaped(found, 1, -1, width)

    def _row(self, x: str) -> str:
        return self._reshaped(x, -1)

    def _reshaped(self, x: str, *shape: int) -> str:
        return self.writer.op("Reshape", x, self.writer.constant(np.array(shape)))

    def _logits_of_mean(self, features: str) -> str:
        """Return the head's product with the mean over the tokens of each text, whose sum is exact in float64."""
        writer = self.writer
        if self.model.config.inputs == "norms":
            features = self._stream(features)
        total = writer.op("Cast", self._sums(self._inside(features, _FLOAT), _DOUBLE), to=_FLOAT)
        mean = writer.op("Div", total, writer.op("Cast", self._lengths(), to=_FLOAT))
        return self.products.product("head", self.model.head, mean, "norm")


class IntegerClassifierGraph(ClassifierGraph, IntegerGptGraph):
    """The graph of a classifier of the integer profile."""

    def _logits_of_mean(self, features: str) -> str:
        """Return the head's product with the mean, round(sum / count): a division of what is not negative."""
        writer, count = self.writer, self._lengths()
        raised = input_units(self.model.head, "norm").most + 1
        two, raise_mean = (writer.constant(np.int64(value)) for value in (2, raised))
        divisor = writer.op("Mul", count, two)
        doubled = writer.op("Mul", self._sums(self._inside(features, _INT32), _INT64), two)
        positive = writer.op("Add", writer.op("Add", doubled, count), writer.op("Mul", divisor, raise_mean))
        mean = writer.op("Sub", writer.op("Div", positive, divisor), raise_mean)
        return self._logits_of(writer.op("Cast", mean, to=_INT32))
