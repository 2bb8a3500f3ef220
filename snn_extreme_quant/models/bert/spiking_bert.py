r"""SpikingBERT, to be read from top to bottom: a BERT encoder whose layers speak in spikes.

Equations and sources: ``docs/spiking_bert.md``. Every layer of neurons takes a current and gives average rates
``(B, S, channels)`` or, on the schedule ``"step"``, spikes ``(T, B, S, channels)``; the code is the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.models.bert.cells import framework_cell
from snn_extreme_quant.models.bert.config import SpikingBertConfig
from snn_extreme_quant.models.bert.feedback import Feedback
from snn_extreme_quant.models.bert.modes import refuse_mode
from snn_extreme_quant.models.bert.offsets import with_offsets
from snn_extreme_quant.models.bert.running import Activity, BertDetails, settle, simulate, time_steps
from snn_extreme_quant.models.bert.shifts import ShiftNorm, ShiftSoftmax, query_grid
from snn_extreme_quant.models.config import Weights
from snn_extreme_quant.models.latent import start_as_bert
from snn_extreme_quant.models.precision import set_weights
from snn_extreme_quant.models.token_inputs import check_bert_inputs
from snn_extreme_quant.neurons.equilibrium import ChannelIF, Mode, average_rate
from snn_extreme_quant.neurons.equilibrium_steps import StepIF
from snn_extreme_quant.neurons.implicit import ImplicitLayer

__all__ = ["BertDetails", "SpikingBert"]

#: Added to the scores of pads before the softmax.
PAD = -10000.0
#: Embeddings are small beside residual sums; a norm takes any scale, and so much larger its grid is finer for them.
EMBEDDINGS_FINER = 16.0
Neurons = ChannelIF | StepIF


def _neurons(config: SpikingBertConfig, channels: int) -> Neurons:
    """Make one layer of neurons."""
    width = channels if config.threshold_per == "channel" else None
    options = (config.T, width, config.threshold, config.signed, config.learn_thresholds)
    neurons: Neurons
    if config.schedule == "synchronous":
        neurons = ChannelIF(*options)
    else:
        cell = None if config.neurons is None else framework_cell(config.neurons, config.signed)
        neurons = StepIF(*options, config.leak, config.start, cell)
    if config.offset:
        neurons.register_buffer("offset", torch.zeros(channels))
    return neurons


def _norm(config: SpikingBertConfig) -> nn.LayerNorm:
    return (nn.LayerNorm if config.profile == "reference" else ShiftNorm)(config.hidden, eps=config.norm_eps)


class _Block(nn.Module):
    """What the parts of the network share."""

    def __init__(self, config: SpikingBertConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)

    def amplitude(self, neurons: Neurons) -> Tensor | float:
        """Return what a spike of ``neurons`` carries where it is added or compared."""
        return neurons.threshold if self.config.amplitude == "threshold" else 1.0

    def new_bias(self, size: int) -> nn.Parameter | None:
        """Return a bias for neurons that have none before them, where there are offsets."""
        return nn.Parameter(torch.zeros(size)) if self.config.offset else None


class Embeddings(_Block):
    """Word, position and type, normalised: a constant current into the input neurons."""

    def __init__(self, config: SpikingBertConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab, config.hidden)
        self.positions = nn.Embedding(config.positions, config.hidden)
        self.token_types = nn.Embedding(config.types, config.hidden)
        self.norm = _norm(config)
        self.neurons = _neurons(config, config.hidden)

    def forward(self, ids: Tensor, types: Tensor | None) -> Tensor:
        """Return the current, ``(B, S, hidden)``."""
        position = self.positions(torch.arange(ids.shape[-1], device=ids.device))
        kind = self.token_types(torch.zeros_like(ids) if types is None else types)
        total = self.words(ids) + position + kind
        if self.config.profile == "integer":
            total = total * EMBEDDINGS_FINER
        return self.dropout(self.norm(total))  # type: ignore[no-any-return]

    def fire(self, current: Tensor) -> Tensor:
        """Return the spikes of the input neurons for one current in all steps, or for each step its own."""
        if isinstance(self.neurons, StepIF):
            return self.neurons(current, constant=current.dim() == 3)  # type: ignore[no-any-return]
        return self.neurons(current)  # type: ignore[no-any-return]


class Attention(_Block):
    """Spiking keys and values, real queries."""

    def __init__(self, config: SpikingBertConfig) -> None:
        super().__init__(config)
        size = config.hidden
        self.query, self.key, self.value = (nn.Linear(size, size) for _ in range(3))
        self.key_neurons, self.value_neurons = _neurons(config, size), _neurons(config, size)
        self.neurons = _neurons(config, size)
        self.softmax = nn.Softmax(-1) if config.profile == "reference" else ShiftSoftmax()
        # Scores of the integer profile are in units of the binary logarithm.
        self.unit = 1.0 if config.profile == "reference" else math.log2(math.e)
        self.query_grid: nn.Module = nn.Identity()
        self.set_time_steps(config)
        self.bias = self.new_bias(size)

    def forward(self, spikes: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spikes of the attention and the scores before softmax and mask."""
        key, value = self.key_neurons(self.key(spikes)), self.value_neurons(self.value(spikes))
        # A key spike carries its amplitude; multiplying the query by it leaves the keys {-1, 0, 1}.
        query = self.query(spikes) * (self.amplitude(self.key_neurons) * (self.unit / math.sqrt(self._head_size)))
        scores = self._split(self.query_grid(query)) @ self._split(key).transpose(-1, -2)
        weights = self.dropout(self.softmax(scores + mask))
        context = (weights @ self._split(value)).transpose(-2, -3).flatten(-2)
        current = context * self.amplitude(self.value_neurons)
        if self.bias is not None:
            current = current + self.bias
            silent = query * (self.key_neurons.offset / self.key_neurons.threshold)
            scores = scores + self._split(silent).sum(-1, keepdim=True)  # softmax left out what all keys share
        return self.neurons(current), scores / self.unit

    def set_time_steps(self, config: SpikingBertConfig) -> None:
        """Take queries of the integer profile to the grid on which scores are exact: keys are rates on T levels."""
        self.config = config
        if config.profile == "integer":
            self.query_grid = query_grid(self._head_size, config.T if config.schedule == "synchronous" else 1)

    @property
    def _head_size(self) -> int:
        return self.config.hidden // self.config.heads

    def _split(self, x: Tensor) -> Tensor:
        """Return ``(..., heads, S, head size)``."""
        heads: Tensor = x.unflatten(-1, (self.config.heads, self._head_size))  # type: ignore[no-untyped-call]
        return heads.transpose(-2, -3)


class EncoderLayer(_Block):
    """Attention and a feed-forward network, each with a residual, a norm and neurons."""

    def __init__(self, config: SpikingBertConfig) -> None:
        super().__init__(config)
        self.attention = Attention(config)
        self.attention_output = nn.Linear(config.hidden, config.hidden)
        self.attention_norm = _norm(config)
        self.attention_neurons = _neurons(config, config.hidden)
        self.intermediate = nn.Linear(config.hidden, config.ffn)
        self.intermediate_neurons = _neurons(config, config.ffn)
        self.output = nn.Linear(config.ffn, config.hidden)
        self.output_norm = _norm(config)
        self.neurons = _neurons(config, config.hidden)
        self.activation: Callable[[Tensor], Tensor] = F.gelu if config.profile == "reference" else F.relu
        self.intermediate_bias = self.new_bias(config.ffn)

    def forward(
        self, spikes: Tensor, carried: Tensor, mask: Tensor, fed: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return spikes, carried spikes and attention scores.

        Args:
            spikes: of the layer below, what layers with weights read.
            carried: the same times their amplitude, what the residual adds.
            mask: 0, or a large negative number at pads.
            fed: current that later layers feed back into the last neurons, if any.
        """
        attended, scores = self.attention(spikes, mask)
        current = self.attention_norm(self.dropout(self.attention_output(attended)) + carried)
        middle = self.attention_neurons(current)
        carried = middle * self.amplitude(self.attention_neurons)
        current = self.activation(self.intermediate(middle))
        wide = self.intermediate_neurons(
            current if self.intermediate_bias is None else current + self.intermediate_bias
        )
        current = self.output_norm(self.dropout(self.output(wide)) + carried)
        spikes = self.neurons(current if fed is None else current + fed)
        return spikes, spikes * self.amplitude(self.neurons), scores


class SpikingBert(_Block):
    """A spiking BERT encoder with a head on the rate of the first token.

    Args:
        config: sizes, neurons, weights, profile.

    Shapes:
        ``ids``, ``attention_mask`` (1 for tokens, 0 for pads) and ``types`` are ``(B, S)``; logits ``(B, classes)``.

    Raises:
        ConfigError: the plan of weights matches no layer, or the framework of the neurons is not installed.

    Example:
        >>> config = SpikingBertConfig(vocab=50, layers=1, hidden=16, heads=2, ffn=32, weights="ternary")
        >>> model = SpikingBert(config).eval()
        >>> model(torch.tensor([[1, 7, 2]])).shape
        torch.Size([1, 2])
    """

    def __init__(self, config: SpikingBertConfig) -> None:
        SpikingBertConfig.expect(config, "SpikingBert")
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.pooler_bias = self.new_bias(config.hidden) if config.head == "pooled" else None
        if config.head == "pooled":
            self.pooler = nn.Linear(config.hidden, config.hidden)
            self.pooler_neurons = _neurons(config, config.hidden)
            self.squash = torch.tanh if config.profile == "reference" else F.hardtanh
        self.classifier = nn.Linear(config.hidden, config.classes)
        self.apply(start_as_bert)
        if config.feedback:
            self.feedback = Feedback(config.feedback, config.hidden)
            self.implicit = ImplicitLayer(config.implicit_solver)
        self.set_weights(config.weights)
        self.mode = "simulated"

    # Running.

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
        """Return the logits."""
        return self.details(ids, attention_mask, types).logits

    def details(self, ids: Tensor, attention_mask: Tensor | None = None, types: Tensor | None = None) -> BertDetails:
        """Return the logits and what distillation compares, in the model's mode.

        Raises:
            SampleError: a sequence is longer than the table of positions, or inputs are no ``(B, S)`` integers; on the
                CPU also a number that is no token or type, or a mask that is not 0 and 1 or begins with a pad.
        """
        check_bert_inputs(ids, attention_mask, types, self.config)
        mask = torch.zeros((), device=ids.device)
        if attention_mask is not None:
            mask = (1.0 - attention_mask[:, None, None, :].float()) * PAD
        steps = self.config.schedule == "step" and self.mode == "simulated"
        rates = simulate(self, lambda: self.embeddings(ids, types), mask) if steps else None
        current = self.embeddings(ids, types)
        if not self.config.feedback:
            activity = self.run(current, mask)
        elif self.mode == "surrogate":
            activity = Activity.joined(list(time_steps(self, current, mask)))
        else:
            activity = settle(self, current, mask, rates)
        hidden, scores = (tuple(map(self._rates, found)) for found in (activity.hidden, activity.scores))
        return BertDetails(self.classifier(self._rates(activity.read)), with_offsets(self, hidden), scores)

    def run(self, current: Tensor, mask: Tensor, fed: Mapping[int, Tensor] | None = None) -> Activity:
        """Go through the network once, as the neurons' mode has it.

        Args:
            current: into the input neurons, the same in all steps or for each its own.
            mask: 0, or a large negative number at pads.
            fed: currents that are fed back, by layer.
        """
        spikes = self.embeddings.fire(current + fed[0] if fed and 0 in fed else current)
        carried = spikes * self.amplitude(self.embeddings.neurons)
        pure, hidden, scores = [spikes], [carried], list[Tensor]()
        for index, layer in enumerate(self.encoder, 1):
            spikes, carried, score = layer(spikes, carried, mask, fed.get(index) if fed else None)
            pure.append(spikes)
            hidden.append(carried)
            scores.append(score)
        read = carried[..., 0, :]
        if self.config.head == "pooled":
            current = self.squash(self.pooler(spikes[..., 0, :]))
            read = self.pooler_neurons(current if self.pooler_bias is None else current + self.pooler_bias)
            read = read * self.amplitude(self.pooler_neurons)
        state = self.feedback.state(pure) if self.config.feedback else None
        return Activity(state, read, tuple(hidden), tuple(scores))

    def _rates(self, x: Tensor) -> Tensor:
        """Return the average over the time steps, where there are any."""
        return average_rate(x, self.config.leak) if self.mode == "surrogate" else x

    # Modes and weights.

    @property
    def mode(self) -> Mode:
        """What a forward pass gives, and its gradient: ``"simulated"``, ``"equilibrium"`` or ``"surrogate"``."""
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        refuse_mode(self.config, mode)
        self._mode: Mode = mode
        self.set_neuron_modes(mode)

    def set_neuron_modes(self, mode: Mode) -> None:
        """Set what the neurons give; the model's own mode stays."""
        for _, neurons in self.named_neurons():
            neurons.mode = mode

    def named_neurons(self) -> list[tuple[str, Neurons]]:
        """Return all layers of neurons, in the order in which they fire."""
        return [(name, module) for name, module in self.named_modules() if isinstance(module, (ChannelIF, StepIF))]

    def set_time_steps(self, T: int) -> None:
        """Run with another number of time steps from now on.

        Raises:
            ConfigError: the schedule does not take that number.
        """
        self.config = replace(self.config, T=T)
        for _, neurons in self.named_neurons():
            neurons.T = T
        for layer in self.encoder:
            cast("EncoderLayer", layer).attention.set_time_steps(self.config)

    def set_weights(self, weights: Weights) -> None:
        """Give the layers another precision; the latent weights, and the Parameters, stay the same.

        With offsets, biases are mended by what the codes change in their part for the offsets.

        Args:
            weights: as :attr:`SpikingBertConfig.weights`.

        Raises:
            UnmatchedNameError: a name in the plan matches no layer.
        """
        set_weights(self, weights)

    def pack_embeddings(self, bits: int = 4, scale: Literal["mse", "max"] = "mse") -> None:
        """Quantise the tables after training; see :func:`~snn_extreme_quant.models.bert.tables.pack_embeddings`."""
        from snn_extreme_quant.models.bert.tables import pack_embeddings

        pack_embeddings(self, bits, scale)

    def cut_positions(self, positions: int) -> None:
        """Leave the first positions alone; see :func:`~snn_extreme_quant.models.bert.tables.cut_positions`."""
        from snn_extreme_quant.models.bert.tables import cut_positions

        cut_positions(self, positions)

    # Making, saving and loading.

    @classmethod
    def from_teacher(
        cls,
        source: str | Path | nn.Module,
        layers: int | Sequence[int] | None = None,
        texts: Sequence[str | tuple[str, str]] | None = None,
        **config: Any,
    ) -> Self:
        """Make a student from a BERT: its weights, and thresholds from its activations.

        Args:
            source: a folder or a hub id that ``AutoModel`` loads, or a model of transformers.
            layers: how many of its layers, evenly spread, or which ones, from 1; None: all.
            texts: sentences, or pairs of them, for the thresholds, some hundred of the task; None: random tokens, which
                serve badly.
            **config: fields of :class:`SpikingBertConfig` other than sizes.

        Raises:
            UnsupportedModelError: the teacher is no BERT of the kind that carries over.
            ModelSourceError: it cannot be loaded.
            ConfigError: layers that the teacher does not have, or a field that its sizes decide.
        """
        from snn_extreme_quant.models.bert.teacher import student_of

        return cast("Self", student_of(source, layers, texts, config))

    def save_pretrained(self, folder: str | Path, packed: bool = False) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, which is made if it does not exist.

        Args:
            folder: where to.
            packed: codes and scales of quantised layers alone, for deployment; else latent weights, to train on.

        Raises:
            OutputPathError: the folder or a file cannot be written.
        """
        from snn_extreme_quant.models.bert.files import save

        save(self, Path(folder), packed)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what :meth:`save_pretrained` wrote, ready to run: in evaluation mode; ``.train()`` is for training on.

        Raises:
            CheckpointError: the folder or a file is missing, or is not of this format.
        """
        from snn_extreme_quant.models.bert.files import load
        from snn_extreme_quant.models.sources import saved_folder

        return cast("Self", load(saved_folder(folder)))
