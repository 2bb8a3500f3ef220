r"""SpikeGPT, to be read from top to bottom: a language model without attention whose branches speak in spikes.

Equations and sources: ``docs/spike_gpt.md``. Inside, time comes first: tensors are ``(T, B, width)``, and the tokens
are the time steps of the neurons. A pass over a text, over pieces of it, or over single tokens gives the same bits: see
:mod:`snn_extreme_quant.models.gpt.exact`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.models.config import Weights, weights_from_data
from snn_extreme_quant.models.gpt.cells import FrameworkTokenLIF
from snn_extreme_quant.models.gpt.chains import Grid, added, gated, mixed, squared
from snn_extreme_quant.models.gpt.config import SpikeGPTConfig, check_signs
from snn_extreme_quant.models.gpt.exact import STREAM_BITS, norm, on_grid, product, reach, read_type, sum_of
from snn_extreme_quant.models.gpt.inputs import Product, check_ids, check_tokens, lengths_of
from snn_extreme_quant.models.gpt.integer_parts import IntegerTokenLIF
from snn_extreme_quant.models.gpt.start import start_as_rwkv
from snn_extreme_quant.models.gpt.state import SpikeGPTState, given_state
from snn_extreme_quant.models.gpt.wkv import weighted_average
from snn_extreme_quant.models.precision import give_weights
from snn_extreme_quant.neurons.spec import NeuronSpec
from snn_extreme_quant.neurons.token_lif import TOKEN_LIF, TokenLIF, unit_step

__all__ = ["Product", "SpikeGPT"]

_MOST = 2.0**STREAM_BITS
#: The state of one layer, by name, each ``(B, width)``; it is replaced by the one after the last token.
_Memory = dict[str, Tensor]
#: The potential before the head, which no layer has.
_HEAD = "head_potential"


def _stream(x: Tensor) -> Tensor:
    """Put numbers on the grid of the stream between layers."""
    return on_grid(x, STREAM_BITS, _MOST)


class _Branch(nn.Module):
    """What the parts of a layer share."""

    def __init__(self, config: SpikeGPTConfig, prefix: str) -> None:
        super().__init__()
        self.config, self.prefix = config, prefix
        self.neurons = _neurons(config)
        if config.inputs == "spikes":
            self.readers = nn.ModuleDict()

    def share(self) -> nn.Parameter:
        """Make the share of this token, against the one before, in what a product reads."""
        return nn.Parameter(torch.ones(1, 1, self.config.hidden))

    def matrix(self, name: str, inputs: int, outputs: int) -> nn.Linear:
        """Make weights, and the neurons that they read where they read spikes."""
        if self.config.inputs == "spikes":
            self.readers[name] = _neurons(self.config)
        return nn.Linear(inputs, outputs, bias=False)

    def grid(self, name: str, x: Tensor, kind: str = "norm") -> Grid | None:
        """Return what a product's inputs are put on; None: they cause the spikes that it reads."""
        if self.config.inputs == "spikes":
            return None
        layer = cast("nn.Linear", getattr(self, name))
        return Grid(*reach(layer, layer.in_features, kind), read_type(layer, x.device.type))

    def multiply(self, name: str, x: Tensor, memory: _Memory, raw: bool = False) -> Tensor:
        """Return the product of a matrix with x on its grid, or with the spikes that x causes."""
        if self.config.inputs == "spikes":
            key = f"{self.prefix}_{name}_potential"
            x, memory[key] = self.readers[name](x / self.config.input_threshold, memory[key])
        return product(cast("nn.Module", getattr(self, name)), x, raw=raw)

    def fire(self, current: Tensor, memory: _Memory) -> Tensor:
        """Return what the branch adds to the stream: spikes."""
        if not self.config.spiking:
            return _stream(current)
        key = f"{self.prefix}_potential"
        spikes, memory[key] = self.neurons(current, memory[key])
        return cast("Tensor", spikes)

    def mixed(self, y: Tensor, memory: _Memory, *names: str) -> tuple[Tensor, ...]:
        """Return what some products read of each token and its predecessor."""
        key = f"{self.prefix}_before"
        shares = [getattr(self, f"time_mix_{name[0]}") for name in names]
        found = mixed(y, memory[key], shares, [self.grid(name, y) for name in names])
        memory[key] = y[-1]
        return found


def _neurons(config: SpikeGPTConfig) -> nn.Module:
    if not config.spiking:
        return nn.Identity()
    if config.profile == "integer":
        return IntegerTokenLIF(config.tau, config.detach_reset)
    if config.neurons is not None:
        return FrameworkTokenLIF(config.neurons)
    return TokenLIF(config.tau, config.detach_reset)


class TimeMix(_Branch):
    """SRWKV: a weighted average of the values of all tokens so far."""

    def __init__(self, config: SpikeGPTConfig) -> None:
        super().__init__(config, "att")
        size = config.hidden
        self.time_decay, self.time_first = (nn.Parameter(torch.zeros(size)) for _ in range(2))
        self.time_mix_k, self.time_mix_v, self.time_mix_r = (self.share() for _ in range(3))
        self.key, self.value, self.receptance, self.output = (
            self.matrix(name, size, size) for name in ("key", "value", "receptance", "output")
        )

    def forward(self, y: Tensor, memory: _Memory) -> Tensor:
        """Return the branch's spikes."""
        k, v, r = self.mixed(y, memory, "key", "value", "receptance")
        key, value = self.multiply("key", k, memory), self.multiply("value", v, memory)
        gate = self.multiply("receptance", r, memory, raw=True)
        average, memory["numerator"], memory["denominator"] = weighted_average(
            self.time_decay, self.time_first, key, value, memory["numerator"], memory["denominator"]
        )
        return self.fire(self.multiply("output", gated(gate, average, self.grid("output", y)), memory), memory)


class ChannelMix(_Branch):
    """SRFFN: a wide layer of squared rectified sums, with a gate."""

    def __init__(self, config: SpikeGPTConfig) -> None:
        super().__init__(config, "ffn")
        self.time_mix_k, self.time_mix_r = (self.share() for _ in range(2))
        self.key = self.matrix("key", config.hidden, config.wide)
        self.receptance = self.matrix("receptance", config.hidden, config.hidden)
        self.value = self.matrix("value", config.wide, config.hidden)

    def forward(self, y: Tensor, memory: _Memory) -> Tensor:
        """Return the branch's spikes."""
        k, r = self.mixed(y, memory, "key", "receptance")
        key = squared(self.multiply("key", k, memory, raw=True), self.grid("value", y, "square"))
        gate = self.multiply("receptance", r, memory, raw=True)
        return self.fire(gated(gate, self.multiply("value", key, memory, raw=True)), memory)


class Block(nn.Module):
    """Both branches, each behind a norm."""

    branches: tuple[type[TimeMix], type[ChannelMix]] = (TimeMix, ChannelMix)

    def __init__(self, config: SpikeGPTConfig, first: bool) -> None:
        super().__init__()
        if first:
            self.ln0 = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.ln1, self.ln2 = (nn.LayerNorm(config.hidden, eps=config.norm_eps) for _ in range(2))
        time_mix, channel_mix = self.branches
        self.att, self.ffn = time_mix(config), channel_mix(config)
        self.dropout = config.dropout

    def norm(self, layer: nn.LayerNorm, x: Tensor) -> Tensor:
        """Return what a branch reads."""
        return norm(layer, x)

    def forward(self, x: Tensor, memory: _Memory) -> Tensor:
        """Return the stream behind the layer."""
        x = added(x, self.att(self.norm(self.ln1, x), memory), _MOST)
        x = added(x, self.ffn(self.norm(self.ln2, x), memory), _MOST)
        if self.training and self.dropout:
            x = _stream(F.dropout(x, self.dropout))
        return x


class Ends:
    """What stands before the first layer and behind the last.

    Args:
        model: the model.
    """

    def __init__(self, model: SpikeGPT) -> None:
        self.model = model
        #: What the head's product reads: numbers of a norm, or spikes.
        self.read = "norm" if model.config.inputs == "norms" else None

    def start(self, layer: nn.LayerNorm, x: Tensor) -> Tensor:
        """Return the stream before the first layer."""
        return _stream(norm(layer, _stream(x)))

    def features(self, x: Tensor) -> Tensor:
        """Return what the head reads, or what causes the spikes that it reads."""
        return norm(self.model.ln_out, x)

    def logits(self, features: Tensor) -> Tensor:
        """Return the head's product."""
        return product(self.model.head, features, self.read)

    def logits_of_mean(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Return the head's product with the mean over the tokens of each text."""
        if self.read is not None:
            features = _stream(features)
        inside = torch.arange(len(features), device=lengths.device).unsqueeze(1) < lengths
        mean = sum_of(features * inside.unsqueeze(2), 0) / lengths.unsqueeze(1)
        return product(self.model.head, mean, "norm")


def _parts(config: SpikeGPTConfig) -> tuple[type[Block], type[Ends]]:
    """Return what computes a profile."""
    if config.profile == "integer":
        from snn_extreme_quant.models.gpt.integer import IntegerBlock, IntegerEnds  # it builds on this module

        return IntegerBlock, IntegerEnds
    return Block, Ends


class SpikeGPT(nn.Module):
    """A spiking language model, or a classifier of texts.

    Args:
        config: sizes, neurons, head, weights.

    Shapes:
        ``ids`` and ``attention_mask`` ``(B, T)``, T from 1 and of any length; logits ``(B, T, vocab)`` of
        ``head="tokens"``, else ``(B, classes)``.

    Raises:
        ConfigError: the plan of weights matches no layer, or the framework of the neurons is not installed.

    Example:
        >>> model = SpikeGPT(SpikeGPTConfig(vocab=50, layers=1, hidden=16, weights="ternary")).eval()
        >>> logits, state = model.run(torch.tensor([[1, 7, 2]]))
        >>> bool(torch.equal(model.step(torch.tensor([3]), state)[0], model(torch.tensor([[1, 7, 2, 3]]))[:, -1]))
        True
    """

    #: What the neurons compute, from x / tau.
    spec: NeuronSpec = TOKEN_LIF
    #: Whether files hold tied weights twice: the table by rows, the head's by columns.
    unties = True

    def __init__(self, config: SpikeGPTConfig) -> None:
        SpikeGPTConfig.expect(config, "SpikeGPT")
        super().__init__()
        self.config = config
        block, ends = _parts(config)
        self.emb = nn.Embedding(config.vocab, config.hidden)
        self.blocks = nn.ModuleList(block(config, first=number == 0) for number in range(config.layers))
        self.ln_out = nn.LayerNorm(config.hidden, eps=config.norm_eps)
        self.head = nn.Linear(config.hidden, config.outputs, bias=False)
        self.head_neurons = _neurons(config) if config.inputs == "spikes" else nn.Identity()
        self._ends = ends
        start_as_rwkv(self)
        if config.tied:
            self.head.weight = self.emb.weight
        self.set_weights(config.weights)

    # Running.

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the logits of a text from its first token on.

        Args:
            ids: tokens.
            attention_mask: 1 for tokens, 0 for the pads behind them. A classifier leaves pads out; a language model
                reads from left to right, so the logits of tokens are the same with it, and those of pads mean nothing.

        Raises:
            SampleError: ids are no ``(B, T)`` integers below ``vocab``, or the mask does not fit them.
        """
        features, _ = self._features(ids, None)
        lengths = lengths_of(ids, attention_mask)
        if self.config.head == "tokens":
            return self.ends.logits(features).transpose(0, 1)
        if self.config.head == "mean":
            return self.ends.logits_of_mean(features, lengths)
        return self.ends.logits(features[lengths - 1, torch.arange(len(lengths), device=lengths.device)])

    def run(self, ids: Tensor, state: SpikeGPTState | None = None) -> tuple[Tensor, SpikeGPTState]:
        """Go on with a text by some tokens; returns their logits ``(B, T, vocab)`` and the state behind them.

        Raises:
            ConfigError: the model is a classifier.
            SampleError: ids or state do not fit.
        """
        if self.config.head != "tokens":
            raise ConfigError(
                f"run() and step() are for head='tokens'; this model, head={self.config.head!r}, reads whole texts."
            )
        features, state = self._features(ids, state)
        return self.ends.logits(features).transpose(0, 1), state

    def step(self, tokens: Tensor, state: SpikeGPTState) -> tuple[Tensor, SpikeGPTState]:
        """Go on by one token, ``(B,)``; returns logits ``(B, vocab)`` and the next state."""
        check_tokens(tokens)
        logits, state = self.run(tokens.unsqueeze(1), state)
        return logits[:, 0], state

    def initial_state(self, batch: int = 1) -> SpikeGPTState:
        """Return the state before a text."""
        return SpikeGPTState.initial(self.config, batch, self.emb.weight.device)

    def _features(self, ids: Tensor, state: SpikeGPTState | None) -> tuple[Tensor, SpikeGPTState]:
        """Return what the head reads, ``(T, B, hidden)``: numbers, or spikes."""
        check_ids(ids, self.config.vocab)
        state = self.initial_state(len(ids)) if state is None else given_state(state, self.config, len(ids))
        # The signs of the table's latent weights are those of its codes, where it has any.
        binarised = self.config.binarised
        if binarised and isinstance(self.emb, IntegerFirst):
            check_signs(self.emb.config)
        x = unit_step(F.embedding(ids.T, self.emb.weight)) if binarised else self.emb(ids.T)
        x = self.ends.start(cast("Block", self.blocks[0]).ln0, x)
        memories: list[_Memory] = []
        of_layers = {name: value for name, value in state.tensors.items() if name != _HEAD}
        for number, block in enumerate(self.blocks):
            memory = {name: value[number] for name, value in of_layers.items()}
            x = block(x, memory)
            memories.append(memory)
        features = self.ends.features(x)
        if self.config.inputs == "spikes":
            features, last = self.head_neurons(features / self.config.input_threshold, state.tensors[_HEAD][0])
        after = {name: torch.stack([memory[name] for memory in memories]) for name in of_layers}
        if self.config.inputs == "spikes":
            after[_HEAD] = torch.stack([last])
        return features, SpikeGPTState(after)

    @property
    def ends(self) -> Ends:
        """What stands before the first layer and behind the last."""
        return self._ends(self)

    # Weights.

    def set_weights(self, weights: Weights) -> None:
        """Give the layers another precision; the latent weights, and the Parameters, stay the same.

        Args:
            weights: as :attr:`SpikeGPTConfig.weights`.

        Raises:
            ConfigError: a plan gives the binarised embedding codes that change signs.
            UnmatchedNameError: a name in the plan matches no layer.
        """
        config = replace(self.config, weights=weights_from_data(weights))
        give_weights(self, config.plan)
        self.config = config

    def products(self) -> Iterator[Product]:
        """Yield the matrix products of a token, in their order."""
        spikes = "spikes" if self.config.inputs == "spikes" else "numbers"
        names = [f"{part}.{name}" for part, of in _MATRICES.items() for name in of]
        for number in range(self.config.layers):
            for name in names:
                yield self._product(f"blocks.{number}.{name}", spikes)
        yield self._product("head", "numbers" if self.config.head == "mean" else spikes)

    def _product(self, name: str, reads: str) -> Product:
        outputs, inputs = self.get_submodule(name).get_parameter("weight").shape
        return Product(name, reads, inputs, outputs)

    # Saving and loading.

    def save_pretrained(self, folder: str | Path, packed: bool = False) -> None:
        """Write ``config.json`` and ``model.safetensors`` into ``folder``, which is made if it does not exist.

        Args:
            folder: where to.
            packed: codes and scales of quantised layers alone, for deployment; else latent weights, to train on.

        Raises:
            ConfigError: layers were quantised otherwise than by :meth:`set_weights`.
            OutputPathError: the folder or a file cannot be written.
        """
        from snn_extreme_quant.models.gpt.files import save

        save(self, Path(folder), packed)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Load what :meth:`save_pretrained` wrote, ready to run: in evaluation mode; ``.train()`` is for training on.

        Raises:
            CheckpointError: the folder or a file is missing, is not of this format, or holds NaN or infinity.
        """
        from snn_extreme_quant.models.gpt.files import load
        from snn_extreme_quant.models.sources import saved_folder

        return cast("Self", load(saved_folder(folder)))


_MATRICES = {"att": ("key", "value", "receptance", "output"), "ffn": ("key", "receptance", "value")}
