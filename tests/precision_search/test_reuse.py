"""Activations that are kept: the same scores to the bit, whatever the model does; where that cannot be, none are."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.precision_search import Classification, Hierarchy, SentenceClassification, TextPerplexity
from snn_extreme_quant.precision_search.hierarchy import matrices_of
from snn_extreme_quant.precision_search.levels import level_configs
from snn_extreme_quant.precision_search.measuring import LocalWorker, Rounds
from snn_extreme_quant.precision_search.working_model import WorkingModel
from tests.precision_search.networks import chain, trained
from tests.precision_search.test_exported_plans import bert, labelled, sentences

LEVELS = [8, 4, 2, 1]
LIF = {"beta": 0.9, "threshold": 0.3, "init_hidden": True}


class Raw(Classification):
    """Scores that tell every bit: the sums of the logits, weighted."""

    def scores(self, model: nn.Module, rows: Any) -> Any:
        logits = self.logits(model, rows).double()
        return (logits * torch.arange(1.0, logits.shape[1] + 1)).sum(-1).numpy()


def workers(model: nn.Module, evaluator: Any, room: float = 1e9) -> tuple[LocalWorker, LocalWorker]:
    """Return one that keeps activations, and one that does not."""
    blocks = [block.name for block in Hierarchy.of(model).blocks]
    found = []
    for bytes_ in (room, 0):
        working = WorkingModel(model, matrices_of(model), level_configs(LEVELS), 1e9)
        found.append(LocalWorker(working, evaluator, Rounds(evaluator.examples, 0), blocks, bytes_))
    return found[0], found[1]


def compared(model: nn.Module, evaluator: Any, room: float = 1e9, draws: int = 12) -> LocalWorker:
    """Compare random candidates, of which many share their first layers, on some rounds; returns the one that keeps."""
    ours, plain = workers(model, evaluator, room)
    draw = random.Random(0)
    names = [shape.name for shape in matrices_of(model)]
    now: dict[str, Any] = {}
    for number in range(min(2, len(ours.rounds))):
        assert np.array_equal(ours.measure(None, number).scores, plain.measure(None, number).scores)
    for step in range(draws):
        name = names[-1 - step % len(names)]
        level = draw.choice(LEVELS)
        candidate = {**now, name: ours.model.precision(name, level)[0]}
        for number in range(min(2, len(ours.rounds))):
            one, other = ours.measure(candidate, number), plain.measure(candidate, number)
            assert one.reason == other.reason
            assert np.array_equal(one.scores, other.scores), (candidate, number)
        if draw.random() < 0.5:
            now = candidate
    ours.close()
    return ours


def spikes(*shape: int) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def stepped(given: Tensor) -> Callable[[nn.Module, Any], Tensor]:
    """Return logits of a model that makes one time step a call."""
    return lambda model, rows: torch.as_tensor(sum(model(step) for step in given[:, rows]))


def snntorch_net() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), snn.Leaky(**LIF), nn.Flatten(), nn.Linear(144, 32), snn.Leaky(**LIF),
        nn.Linear(32, 16), snn.Leaky(**LIF), nn.Linear(16, 4),
    )  # fmt: skip
    return net, Raw(stepped(spikes(4, 32, 1, 8, 8)), np.zeros(32))


def spikingjelly_net() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    block = [nn.Sequential(layer.Linear(32, 32), neuron.LIFNode(v_threshold=0.2)) for _ in range(3)]
    net = nn.Sequential(layer.Linear(16, 32), neuron.IFNode(v_threshold=0.2), *block, layer.Linear(32, 4))
    functional.set_step_mode(net, "m")
    given = spikes(4, 32, 16)
    return net, Raw(lambda model, rows: model(given[:, rows]).sum(0), np.zeros(32))


def gpt(inputs: str = "norms", **options: Any) -> SpikeGPT:
    torch.manual_seed(0)
    config = SpikeGPTConfig(**{"vocab": 20, "layers": 3, "hidden": 16, "inputs": inputs, **options})
    model = SpikeGPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def text() -> Any:
    """Return an evaluator whose streams take two pieces, so that states go from one to the next."""
    return TextPerplexity(np.random.default_rng(0).integers(0, 20, 18 * 300), 18)


QUALIFIED: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "snntorch": snntorch_net,
    "spikingjelly": spikingjelly_net,
    "SpikingBert": lambda: (b := bert(vocab=50), SentenceClassification(labelled(b, sentences(50)))),
    "SpikingBert of steps": lambda: (
        b := bert(vocab=50, schedule="step"),
        SentenceClassification(labelled(b, sentences(50, 24))),
    ),
    "SpikingBert with offsets": lambda: (
        b := bert(vocab=50, offset=True, signed=False),
        SentenceClassification(labelled(b, sentences(50, 24))),
    ),
    "SpikeGPT": lambda: (gpt(), text()),
    "SpikeGPT of spikes": lambda: (gpt("spikes"), text()),
    "SpikeGPT of a framework": lambda: (gpt(neurons="snntorch"), text()),
    "SpikeGPT, tied": lambda: (gpt(tied=True, binary_embedding=False), text()),
    "SpikeGPT that classifies": lambda: (
        g := gpt(head="mean", classes=2, vocab=50),
        SentenceClassification(labelled(g, sentences(50, 24))),
    ),
}


@pytest.mark.parametrize("name", QUALIFIED)
def test_scores_are_those_of_full_passes(name: str) -> None:
    model, evaluator = QUALIFIED[name]()
    ours = compared(model, evaluator)
    assert ours.reused().why_not == ""
    assert ours.reused().given > ours.reused().computed / 3


def test_blocks_are_given_back_as_a_whole() -> None:
    """A SpikeGPT whose head alone changed computes the head and nothing of its blocks."""
    model, evaluator = gpt(), text()
    ours, _ = workers(model, evaluator)
    ours.measure(None, 0)
    called: list[str] = []
    ours.measure({"head": sxq.Binary()}, 0)
    for name, module in ours.model.model.named_modules():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    ours.measure({"head": sxq.Ternary()}, 0)
    assert ours.reused().given > 0
    inside = [name for name in called if name.startswith("blocks.") and name.count(".") > 1]
    assert not inside
    ours.measure({"blocks.1.att.key": sxq.Ternary()}, 0)
    assert {name.split(".")[1] for name in called if name.startswith("blocks.") and name.count(".") > 1} == {"1", "2"}


# Networks that do unusual things.


class Net(nn.Module):
    """Three layers; what they do between them is for subclasses to say."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = (nn.Linear(8, 8) for _ in range(3))
        self.four = nn.Linear(8, 3)
        self.act = nn.ReLU()


class Shared(Net):
    """One activation for all layers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.four(self.act(self.three(self.act(self.two(self.act(self.one(x)))))))


class InPlace(Net):
    """What layers give is written to."""

    def forward(self, x: Tensor) -> Tensor:
        return self.four(self.three(self.two(self.one(x)).relu_()).mul_(2.0))


class Recurrent(Net):
    """The last layer feeds the first, a step later."""

    def forward(self, x: Tensor) -> Tensor:
        back = torch.zeros(len(x), 8)
        for _ in range(3):
            back = self.three(torch.relu(self.two(torch.tanh(self.one(x + back)))))
        return self.four(back)


class _Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.Linear(8, 8)
        self.seen: Tensor = torch.zeros(1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.norm(x)
        return torch.relu(self.linear(x))


class SideWays(Net):
    """A block reads what another one has noted, past its results."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Remembering() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.four(x + self.blocks[0].seen)  # type: ignore[operator]


class Listed(Net):
    """A block that changes a list which it is given, and one that gives an object."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor, seen: list[Tensor]) -> Tensor:
            seen.append(self.other(x))
            return torch.relu(self.linear(x))

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for block in self.blocks:
            x = block(x, seen)
        return self.four(x + sum(seen))


def inputs_of(net: nn.Module) -> tuple[nn.Module, Any]:
    given = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    return net, Raw(lambda model, rows: model(given[rows]), np.zeros(32))


@pytest.mark.parametrize("kind", [Shared, InPlace, Recurrent, SideWays, Listed])
def test_whatever_a_network_does_the_scores_are_right(kind: type[Net]) -> None:
    ours = compared(*inputs_of(kind()), draws=24)
    if kind is SideWays:
        assert "reads more of other modules" in ours.reused().why_not
    else:
        assert ours.reused().why_not == ""
        assert ours.reused().given > 0


def test_feedback_is_not_reused() -> None:
    """What a SpikingBert feeds back is read from its neurons, past the layers' results."""
    model = bert(vocab=50, schedule="step", feedback=((2, 0),), classes=2)
    ours = compared(model, SentenceClassification(sentences(50, 16)), draws=4)
    assert ours.reused().why_not
    assert ours.reused().given == 0


def test_inference_mode_is_said() -> None:
    given = torch.randn(32, 4)

    def logits(model: nn.Module, rows: Any) -> Tensor:
        with torch.inference_mode():
            return model(given[rows])

    ours = compared(chain(), Raw(logits, np.zeros(32)))
    assert "inference mode" in ours.reused().why_not


def test_evaluations_that_copy_the_model_get_a_whole_one() -> None:
    given = torch.randn(32, 4)
    ours = compared(chain(), Raw(lambda model, rows: copy.deepcopy(model).double()(given[rows].double()), np.zeros(32)))
    assert ours.reused().given == 0


def test_inputs_that_differ_each_time_are_never_taken_for_known() -> None:
    noise = torch.Generator().manual_seed(3)
    seen: list[Tensor] = []

    def logits(model: nn.Module, rows: Any) -> Tensor:
        seen.append(torch.randn(len(rows), 4, generator=noise))
        found: Tensor = model(seen[-1])
        return found

    ours, _ = workers(chain(), Raw(logits, np.zeros(32)))
    ours.measure(None, 0)
    outcome = ours.measure({"3": sxq.Binary()}, 0)
    assert "other numbers each time" in ours.reused().why_not
    twin = chain()
    sxq.quantize_(twin, sxq.PrecisionPlan({"3": sxq.Binary()}))
    with torch.no_grad():
        expected = (twin.eval()(seen[-1]).double() * torch.arange(1.0, 4.0)).sum(-1)
    assert np.array_equal(outcome.scores, expected.numpy())


def test_room_is_kept_to() -> None:
    """Activations of few rounds, and of none, where there is little room."""
    model, evaluator = QUALIFIED["spikingjelly"]()
    full = compared(model, evaluator).reuse
    assert full is not None
    used = sum(store.used for store in full._stores)
    assert len(full._stores) == 4
    some = compared(model, evaluator, room=used / 3).reuse
    assert some is not None
    assert sum(store.used for store in some._stores) <= used / 3
    assert some.given < full.given
    ours, _ = workers(model, evaluator)
    ours.measure({}, 0)
    assert ours.reuse is not None
    size = ours.reuse._stores[0].used  # of one round
    for room, why in ((size / 2, "take more than reuse"), (2 * size, "more than a third of reuse")):
        none = compared(model, evaluator, room=room, draws=2).reused()
        assert why in none.why_not
        assert none.given == 0


def test_failures_are_those_of_full_passes() -> None:
    net, evaluator = trained()

    def logits(model: nn.Module, rows: Any) -> Tensor:
        if getattr(model[2][0], "config", None) == sxq.Binary():  # type: ignore[index]
            raise RuntimeError("out of cheese")
        return evaluator.logits(model, rows)  # type: ignore[no-any-return]

    ours, plain = workers(net, Classification(logits, evaluator.labels))
    for candidate in ({"4": sxq.Ternary()}, {"2.0": sxq.Binary()}, {"2.0": sxq.Binary(), "4": sxq.Binary()}):
        one, other = ours.measure(candidate, 0), plain.measure(candidate, 0)
        assert one.reason == other.reason
        assert (one.scores is None) == (other.scores is None)


def test_a_search_finds_the_same_with_and_without() -> None:
    net, evaluator = trained()
    options = {"max_drop": 2.0, "max_memory": "20%", "levels": [8, 6, 4, 3, 2, 1]}
    found, plain = (sxq.search(net, evaluator, reuse=reuse, **options) for reuse in ("1GB", None))  # type: ignore[arg-type]
    assert [c.to_dict() for c in found.candidates] == [c.to_dict() for c in plain.candidates]
    assert found.plan == plain.plan
    assert found.sensitivity == plain.sensitivity
    assert found.cost is not None
    assert plain.cost is not None
    assert found.cost["reused"] > 0.2
    assert plain.cost["reused"] == 0.0
    assert found.notes == ()
