"""Compares a language model with its file: the text that both generate, spikes, logits and state, token by token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from snn_extreme_quant.deploy.export import as_tensor, check_weights
from snn_extreme_quant.deploy.runtime.inner_spikes import neuron_outputs, with_outputs
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.deploy.verification.files import empty_report
from snn_extreme_quant.deploy.verification.report import Difference, VerifyReport
from snn_extreme_quant.deploy.verification.texts import TextVerification
from snn_extreme_quant.errors import ConfigError, ModelFileError, SampleError
from snn_extreme_quant.exported.files import AFTER
from snn_extreme_quant.models.evaluation import evaluating
from snn_extreme_quant.models.gpt.spike_gpt import SpikeGPT
from snn_extreme_quant.models.gpt.state import SpikeGPTState, state_shapes

__all__ = ["caught_spikes", "verify_gpt"]

Array = npt.NDArray[Any]
#: Pieces that a finished text is read in, at last.
_PIECES = 3


@dataclass(frozen=True)
class _Reached:
    """Texts but for their last token, and torch's logits and state behind them."""

    ids: Tensor
    logits: Tensor
    state: SpikeGPTState


@dataclass
class _File:
    """A file as it is run.

    Args:
        plain: onnxruntime's session of it.
        inner: one that gives the spikes of the neuron layers too.
        names: of logits and states after.
        spikes: names of the spikes, by layer.
        streaming: whether it takes single tokens.
    """

    plain: Any
    inner: Any
    names: list[str]
    spikes: dict[str, str]
    streaming: bool

    def run(self, session: Any, names: list[str], ids: Array, state: Mapping[str, Array]) -> list[Array]:
        """Give what is named for tokens ``(B, L)``."""
        feed = ids[:, 0] if self.streaming else ids
        found: list[Array] = session.run(names, {"ids": np.ascontiguousarray(feed), **state})
        return found

    def after(self, values: list[Array]) -> dict[str, Array]:
        """Return the state among the results."""
        return {name.removesuffix(AFTER): value for name, value in zip(self.names[1:], values[1:], strict=False)}


def verify_gpt(
    model: nn.Module,
    path: Path,
    proto: onnx.ModelProto,
    facts: dict[str, Any],
    prompts: Any,
    *,
    native: bool | Literal["auto"],
    tokens: int,
) -> VerifyReport:
    """Compare a SpikeGPT with its file; see :func:`~snn_extreme_quant.verify`.

    Args:
        model: the model that was exported.
        path: its file.
        proto: the file, read.
        facts: what the exporter put into it.
        prompts: token ids ``(B, L)``: what the texts begin with.
        native: whether native kernels run.
        tokens: how many to generate of each text.
    """
    if type(tokens) is not int or tokens < 1:
        raise ConfigError(f"verify(tokens={tokens!r}): use a whole number from 1.")
    gpt = _checked(model, path, facts)
    tensors = {name: group[0] for name, group in neuron_outputs(proto).items()}
    plain = open_session(path, native=native)
    inner = open_session(with_outputs(proto, tensors.values()), native=native, name=str(path))
    names = ["logits", *(f"{state['name']}{AFTER}" for state in facts["states"])]
    file = _File(plain.runtime, inner.runtime, names, tensors, facts["form"] == "streaming")
    report = empty_report(path, plain, facts, tensors)
    report.text = text = TextVerification()
    ids = as_tensor(prompts, "The prompt")
    if ids.dim() != 2 or ids.is_floating_point():
        raise SampleError(f"verify() takes prompts of a SpikeGPT as token ids (B, L); got {tuple(ids.shape)}.")
    with evaluating(gpt):
        reached = _generated(gpt, ids.long(), tokens, file, report, text)
        if not file.streaming:
            for pieces in (1, _PIECES):
                _read_again(reached, pieces, file, text)
    report.samples = len(ids)
    return report


def _checked(model: nn.Module, path: Path, facts: Mapping[str, Any]) -> SpikeGPT:
    """Refuse another model than the file's."""
    if not isinstance(model, SpikeGPT):
        raise ModelFileError(f"{path} is of a SpikeGPT; {type(model).__name__} is none.")
    check_weights(model)
    wanted = {state["name"]: state["shape"] for state in facts["states"]}
    own = {name: [layers, "B", width] for name, (layers, width) in state_shapes(model.config).items()}
    if model.config.head != "tokens" or wanted != own or facts["language"]["vocab"] != model.config.vocab:
        raise ModelFileError(
            f"{path} is of another model: vocabulary, layers, width, inputs or neurons are not those of this one"
            f" ({model.config.vocab}, {model.config.layers}, {model.config.hidden})."
        )
    return model


def _generated(
    model: SpikeGPT, ids: Tensor, count: int, file: _File, report: VerifyReport, text: TextVerification
) -> _Reached:
    """Let both go on with the prompts; returns where torch ends."""
    state = model.initial_state(len(ids))
    start = {name: value.numpy() for name, value in state.tensors.items()}
    states = [start, start]  # of the session as it is, and of that which shows spikes
    pieces = list(torch.split(ids, 1, 1)) if file.streaming else [ids]
    made = [ids]
    for place in range(len(pieces) + count - 1):
        piece = pieces[place] if place < len(pieces) else made[-1]
        with caught_spikes(model, file.spikes) as spikes:
            logits, state = model.run(piece, state)
        values = file.run(file.plain, file.names, piece.numpy(), states[0])
        names = [*file.names, *file.spikes.values()]
        shown = file.run(file.inner, names, piece.numpy(), states[1])
        states = [file.after(values), file.after(shown)]
        position = sum(part.shape[1] for part in made) - 1 if place >= len(pieces) else place
        _compare_spikes(report, spikes, shown[len(file.names) :], position)
        _compare_values(text, logits, state, values, f"token {max(0, place - len(pieces) + 1)}", whole=False)
        if place >= len(pieces) - 1:
            chosen, ours = logits[:, -1].argmax(-1), _last(values[0]).argmax(-1)
            text.tokens += len(chosen)
            wrong = int((torch.from_numpy(ours) != chosen).sum())
            if wrong and not text.first:
                text.first = f"token {place - len(pieces) + 1}"
            text.different_tokens += wrong
            made.append(chosen.unsqueeze(1))
    return _Reached(torch.cat(made[:-1], 1), logits, state)


def _read_again(reached: _Reached, pieces: int, file: _File, text: TextVerification) -> None:
    """Read a text in some pieces, and compare what it ends in with what torch has ended in, token by token."""
    ids = reached.ids
    ours = {name: np.zeros_like(value.numpy()) for name, value in reached.state.tensors.items()}
    values: list[Array] = []
    for piece in ids.tensor_split(min(pieces, ids.shape[1]), 1):
        values = file.run(file.plain, file.names, piece.numpy(), ours)
        ours = file.after(values)
    how = "the text at once" if pieces == 1 else f"the text in {pieces} pieces"
    _compare_values(text, reached.logits, reached.state, values, how, whole=True)


def _last(logits: Array) -> Array:
    found: Array = logits[:, -1] if logits.ndim == 3 else logits
    return found


def _compare_values(
    text: TextVerification, logits: Tensor, state: SpikeGPTState, values: list[Array], where: str, *, whole: bool
) -> None:
    """Compare logits and state, bit by bit; zeros of either sign are one number."""
    every = values[0].ndim == 3 and not whole
    wanted = [(logits if every else logits[:, -1]).numpy(), *(value.numpy() for value in state.tensors.values())]
    found = [values[0] if every else _last(values[0]), *values[1:]]
    for name, ours, theirs in zip(("logits", *state.tensors), found, wanted, strict=True):
        wrong = int((ours != theirs).sum()) if ours.shape == theirs.shape else theirs.size
        if whole:
            text.whole_values += theirs.size
            text.different_whole_values += wrong
        else:
            text.values += theirs.size
            text.different_values += wrong
        if wrong and not text.first:
            text.first = f"{where}: {name}"


@contextmanager
def caught_spikes(model: SpikeGPT, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Catch what the neuron layers of a model give, ``(L, B, width)``."""
    found: dict[str, Tensor] = {}

    def catch(name: str) -> Any:
        return lambda _module, _inputs, output: found.__setitem__(name, output[0])

    with ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_hook(catch(name)).remove)
        yield found


def _compare_spikes(report: VerifyReport, spikes: Mapping[str, Tensor], shown: list[Array], position: int) -> None:
    """Compare the spikes of the tokens from ``position`` on."""
    for layer, value in zip(report.layers, shown, strict=True):
        theirs, ours = spikes[layer.name], torch.from_numpy(value)
        if ours.shape != theirs.shape:
            raise ModelFileError(f"{report.path} is of another model: {layer.name!r} gives {tuple(ours.shape)}.")
        wrong = ours != theirs
        layer.compared += theirs.numel()
        layer.fired += float(theirs.sum())
        layer.different += int(wrong.sum())
        if report.first_difference is None and bool(wrong.any()):
            step, sample, *channel = place = wrong.nonzero()[0].tolist()
            there = [float(tensor[tuple(place)]) for tensor in (theirs, ours)]
            report.first_difference = Difference(layer.name, position + step, sample, tuple(channel), *there)
