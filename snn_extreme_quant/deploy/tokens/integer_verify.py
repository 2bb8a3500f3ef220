"""What an integer file of a model of tokens is verified against: golden model, whole numbers in torch, float model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.integer.golden import golden_run
from snn_extreme_quant.deploy.integer.verify import IntegerComparison, answers, relative_difference
from snn_extreme_quant.deploy.synchronous.running import SynchronousRun
from snn_extreme_quant.deploy.tokens.inputs import TokenInputs
from snn_extreme_quant.deploy.tokens.integer_export import run_whole
from snn_extreme_quant.deploy.tokens.running import On, run_tokens
from snn_extreme_quant.deploy.tokens.whole_bert import in_integers
from snn_extreme_quant.errors import ModelFileError
from snn_extreme_quant.models import SpikingBert

__all__ = ["IntegerTokens", "Reference"]


@dataclass(frozen=True)
class Reference:
    """What one batch must give: the outputs, and by layer the counts or spikes, of the golden model and of torch."""

    outputs: list[Tensor]
    golden: dict[str, Tensor]
    trained: dict[str, Tensor]


class IntegerTokens:
    """The references of one file.

    Args:
        proto: the file.
        facts: what it says of itself.
        model: the trained model.
        bert: the encoder in it.
        on: what the file computes.
    """

    def __init__(
        self, proto: onnx.ModelProto, facts: dict[str, Any], model: nn.Module, bert: SpikingBert, on: On
    ) -> None:
        """Make the model in whole numbers anew from the trained one."""
        self.proto, self.model, self.bert, self.on = proto, model, bert, on
        self.whole_model, self.whole = in_integers(model, bert, on, facts.get("ternary_packing", "2bit"))

    def run(self, report: IntegerComparison, batch: TokenInputs) -> Reference:
        """Run golden model and model in whole numbers; compare them with each other and with the float model.

        Args:
            report: what is found is added to it.
            batch: an input.
        """
        found = golden_run(self.proto, {name: value.numpy() for name, value in batch.named.items()})
        outputs = [torch.from_numpy(np.array(value)) for value in found.outputs.values()]
        golden = {name: torch.from_numpy(np.array(value)) for name, value in found.spikes.items()}
        whole = run_whole(self.whole_model, self.whole, batch)
        for name, ours in golden.items():
            theirs = whole.emitted.get(name)
            if theirs is None or theirs.shape != ours.shape:
                raise ModelFileError(f"The file is of another model: its neurons {name!r} are not those of this one.")
            report.torch_compared += ours.numel()
            report.torch_different += int((ours.long() != theirs.long()).sum())
        for mine, theirs in zip(outputs, whole.outputs, strict=True):
            apart = relative_difference(mine, theirs)
            report.torch_output_difference = max(report.torch_output_difference, apart)
        self._cost(report, run_tokens(self.model, self.bert, batch, self.on), golden, outputs)
        return Reference(outputs, golden, whole.emitted)

    def _cost(
        self, report: IntegerComparison, run: SynchronousRun, golden: dict[str, Tensor], outputs: list[Tensor]
    ) -> None:
        """Add what whole numbers change of the float model."""
        steps = float(self.bert.config.T) if self.on == "counts" else 1.0
        for name, ours in golden.items():
            theirs = run.emitted[name][0] * steps
            report.compared += ours.numel()
            report.different += int((ours != theirs).sum())
        before, after = answers(run.outputs), answers(outputs)
        report.samples += before.numel()
        report.same_answer += int((before == after).sum())
