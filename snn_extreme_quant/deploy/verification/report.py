"""What ``verify`` reports: each neuron layer and output, the first difference, and what folding batch norms changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a report needs no torch
    from snn_extreme_quant.deploy.integer.verify import IntegerComparison
    from snn_extreme_quant.deploy.verification.outputs import Answers, OutputVerification
    from snn_extreme_quant.deploy.verification.texts import TextVerification

__all__ = ["BatchNormComparison", "Difference", "LayerVerification", "VerifyReport"]


@dataclass(frozen=True)
class Difference:
    """Where a spike differs: the earliest step, and in it the first layer in order of execution.

    Args:
        layer: name of the neuron layer.
        step: time step, from 0.
        sample: index over all samples given.
        channel: index within the layer, one number for each of its axes.
        torch_spike: what the trained model gives (for an integer file, its integer graph).
        file_spike: what the file gives.
        golden_spike: what the golden model of an integer file gives; None for other files.
    """

    layer: str
    step: int
    sample: int
    channel: tuple[int, ...]
    torch_spike: float
    file_spike: float
    golden_spike: float | None = None

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"layer {self.layer!r}, step {self.step}, sample {self.sample}, channel {self.channel}:"
            f" torch {self.torch_spike:g}, file {self.file_spike:g}"
            + ("" if self.golden_spike is None else f", golden model {self.golden_spike:g}")
        )


@dataclass
class LayerVerification:
    """The comparison of one neuron layer; ``exact`` and ``reason`` are what the exporter promised."""

    name: str
    exact: bool
    reason: str
    compared: int = 0
    different: int = 0
    fired: float = 0.0


@dataclass
class BatchNormComparison:
    """The model with its own batch norms against the model with the deployed ones, both in torch.

    Folding rounds differently in the last bit, so a membrane potential at its threshold may fall on the other side,
    and all that follows from that spike differs too.

    Args:
        compared: values of neuron outputs.
        different: how many of them differ.
        samples: how many samples were run, if the first output is ``(B, classes)`` or ``(T, B, classes)``.
        same_answer: for how many of them that output, summed over time, has its largest value in the same place.
    """

    compared: int = 0
    different: int = 0
    samples: int = 0
    same_answer: int = 0

    def __str__(self) -> str:
        """Say it in a sentence."""
        return (
            f"folding the batch norms changes {self.different} of {self.compared} spikes and the answer of"
            f" {self.samples - self.same_answer} of {self.samples} samples"
        )


@dataclass
class VerifyReport:
    """What :func:`~snn_extreme_quant.verify` found.

    The model that is compared has its batch norms as they are deployed; ``batch_norms`` says how that model compares
    with the one whose batch norms are torch's.

    Args:
        path: the file.
        runtime: the runtime and its version.
        samples: how many samples were run.
        layers: the comparison by neuron layer, in order of execution.
        first_difference: the first spike that differs, if any.
        outputs: the comparison of each output.
        batch_norms: what folding the batch norms changed; None for a model without.
        integer: of an integer file, how its golden model stands to the model's integer graph in torch and to the float
            model; else None. Its spikes are compared with both of the first two: one that is not as in either differs.
        answers: of a model of tokens with classes, for how many texts the answer is the same.
        text: of a language model, whether torch and file generate the same text.
        tolerance: by how much of a batch's largest value an output may differ; 0 of a SpikeGPT's classifier, whose
            logits are the model's bits.
    """

    path: Path
    runtime: str
    samples: int = 0
    layers: list[LayerVerification] = field(default_factory=list)
    first_difference: Difference | None = None
    outputs: list[OutputVerification] = field(default_factory=list)
    batch_norms: BatchNormComparison | None = None
    integer: IntegerComparison | None = None
    answers: Answers | None = None
    text: TextVerification | None = None
    tolerance: float = 1e-5

    @property
    def spikes_compared(self) -> int:
        """Values of neuron outputs (spike or no spike) compared, over all layers, steps and samples."""
        return sum(layer.compared for layer in self.layers)

    @property
    def spikes_different(self) -> int:
        """How many of them differ."""
        return sum(layer.different for layer in self.layers)

    @property
    def output_difference(self) -> float:
        """The largest difference of any output."""
        return max((output.difference for output in self.outputs), default=0.0)

    @property
    def different_outputs(self) -> list[str]:
        """A sentence for each output that differs."""
        same = "" if self.spikes_different else ", though all spikes are the same"
        return [f"output {o.name!r} differs by up to {o.difference:.3g}{same}" for o in self.outputs if o.difference]

    @property
    def firing_rate(self) -> float:
        """Mean over all neurons, steps and samples."""
        return sum(layer.fired for layer in self.layers) / max(1, self.spikes_compared)

    @property
    def _same_outputs(self) -> bool:
        ours = all(output.ratio <= self.tolerance for output in self.outputs)
        return ours and (self.integer is None or self.integer.same_outputs)

    @property
    def ok(self) -> bool:
        """Whether spikes were compared, all are the same, and outputs so to 1e-5 of a batch's largest value.

        Of a SpikeGPT's classifier: whether all spikes and the bits of the logits are the same.
        Of a language model: whether all spikes are the same, and text, logits and state bit for bit.
        """
        if self.text is not None:
            return self.text.same and self.spikes_different == 0
        same = self.spikes_different == 0 and (self.integer is None or self.integer.torch_different == 0)
        # Bits of outputs are compared as well where there are no neurons.
        compared = self.spikes_compared > 0 or (self.tolerance == 0.0 and self.samples > 0)
        return compared and same and self._same_outputs

    @property
    def verdict(self) -> str:
        """The report in a line: how many spikes differ, and between whom; whether outputs do."""
        said = f"{self.path} on {self.runtime}: {self.spikes_different} of {self.spikes_compared} spikes differ"
        if self.integer is not None and self.integer.torch_different:
            said += f" ({self.integer.torch_different} between the file's golden model and the trained model in torch)"
        if self.text is not None:
            return said if self.text.same else f"{said}; {self.text}"
        return said if self._same_outputs else f"{said}; outputs differ"

    def __str__(self) -> str:
        """Render as a plain table."""
        width = max((len(layer.name) for layer in self.layers), default=0)
        rows = [
            f"{e.name.ljust(width)}  {e.different} of {e.compared} differ, firing rate"
            f" {e.fired / max(1, e.compared):.3f}, {'guaranteed' if e.exact else 'not guaranteed: ' + e.reason}"
            for e in self.layers
        ]
        if self.first_difference is not None:
            rows.append(f"first difference: {self.first_difference}")
        rows += self.different_outputs
        if self.batch_norms is not None:
            rows.append(str(self.batch_norms))
        if self.integer is not None:
            rows.append(str(self.integer))
        rows += [str(found) for found in (self.answers, self.text) if found is not None]
        return "\n".join((self.verdict, *rows))
