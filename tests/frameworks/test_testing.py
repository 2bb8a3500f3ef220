"""The contract tests can fail: each defect put into a toy plugin is caught by the test meant for it."""

import inspect
from contextlib import nullcontext, suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snn_extreme_quant import NeuronSpec
from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks import API_VERSION, NeuronReading
from snn_extreme_quant.frameworks.testing import FrameworkContract, NeuronCase, assert_same_bits, random_currents
from snn_extreme_quant.layers import Linear
from snn_extreme_quant.neurons import neuron_step

SPEC = NeuronSpec("leak", "ge", "subtract", "same_step")


class Toy(nn.Module):
    def __init__(self, states: bool = False) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(1.0))
        self.states = states
        self.v = torch.zeros(())

    def forward(self, x: Tensor) -> Any:
        numbers = {"threshold": self.threshold, "decay": torch.tensor(0.9)}
        spike, new = neuron_step(SPEC, numbers, x, {"v": self.v})
        self.v = new["v"]
        return (spike, self.v) if self.states else spike

    def clear(self) -> None:
        self.v = torch.zeros(())


class OwnLinear(nn.Linear):
    pass


class GoodPlugin:
    name = "toy"
    api_version = API_VERSION
    requirement = "packaging>=1"
    install = "pip install toy"
    reset_methods = ("clear",)

    def is_available(self) -> bool:
        return True

    def neuron_classes(self) -> Any:
        return [Toy]

    def unreadable_neurons(self) -> Any:
        return {"Gelu": "it is smooth, and no spec describes that; use Toy."}

    def inner_layers(self, module: nn.Module) -> Any:
        return ()

    def is_neuron(self, module: nn.Module) -> bool:
        return isinstance(module, Toy)

    def read_neuron(self, module: nn.Module) -> NeuronReading:
        if type(module) is not Toy:
            raise UnsupportedNeuronError(f"{type(module).__name__} is not read; use Toy.")
        numbers = {"threshold": module.threshold.clone(), "decay": torch.tensor(0.9)}
        return NeuronReading(SPEC, numbers, returns_state=module.states, attributes={"v": "v"})

    def layers(self) -> Any:
        return {OwnLinear: Linear}

    def reset(self, model: nn.Module) -> None:
        for module in model.modules():
            if self.is_neuron(module):
                module.clear()

    def get_state(self, module: Any) -> Any:
        return module.v

    def set_state(self, module: Any, state: Any) -> None:
        module.v = state

    def after_swap(self, model: nn.Module) -> None: ...

    def capturing(self) -> Any:
        return nullcontext()


class TestGoodPlugin(FrameworkContract):
    framework = GoodPlugin()
    potential = "v"
    neurons = (("toy", Toy, 8), ("toy-states", lambda: Toy(states=True), 8), ("toy-image", Toy, (2, 3, 3)))


class ApartLayer(Linear):
    @classmethod
    def from_float(cls, module: Any, config: Any) -> Any:
        return cls(module.in_features, module.out_features, config=config).train(module.training)


def reading(**changes: Any) -> NeuronReading:
    values = {"spec": SPEC, "parameters": {"threshold": torch.tensor(1.0), "decay": torch.tensor(0.9)}, **changes}
    return NeuronReading(**values)


def reset_children_only(plugin: Any, model: nn.Module) -> None:
    for module in model.children():
        if isinstance(module, Toy):
            module.clear()


OTHERS: list[Toy] = []


def reset_everything(plugin: Any, model: nn.Module) -> None:
    GoodPlugin().reset(model)
    for module in OTHERS:
        module.clear()


def made(states: bool = False) -> Toy:
    OTHERS.append(Toy(states))
    return OTHERS[-1]


#: Test of the contract -> plugins that must fail it: name of the member, and what it is instead.
DEFECTS: dict[str, list[tuple[str, Any]]] = {
    "test_satisfies_the_protocol": [("name", "Toy"), ("install", " "), ("reset_methods", "clear"), ("name", " ")],
    "test_is_written_for_this_contract": [("api_version", API_VERSION + 1)],
    "test_requirement_is_a_requirement": [("requirement", "toy")],
    "test_is_available_never_raises": [("is_available", lambda self: False), ("is_available", lambda self: "yes")],
    "test_neuron_classes_are_module_types": [
        ("neuron_classes", lambda self: []),
        ("neuron_classes", lambda self: [Toy()]),
        ("neuron_classes", lambda self: [Toy, nn.GELU]),
    ],
    "test_is_neuron": [("is_neuron", lambda self, m: True), ("is_neuron", lambda self, m: False)],
    "test_reading_fits_the_neuron": [
        ("read_neuron", lambda self, m: reading(parameters={"threshold": torch.ones(5), "decay": torch.ones(())})),
        ("read_neuron", lambda self, m: m.threshold.zero_() + 1 and reading()),
        ("read_neuron", lambda self, m: SPEC),
    ],
    "test_reading_is_a_copy": [
        ("read_neuron", lambda self, m: reading(parameters={"threshold": m.threshold, "decay": torch.tensor(0.9)}))
    ],
    "test_step_function_is_the_neuron_bit_for_bit": [
        ("read_neuron", lambda self, m: reading(spec=NeuronSpec("leak", "gt", "subtract", "same_step"))),
        ("read_neuron", lambda self, m: reading(spec=NeuronSpec("leak", "ge", "subtract", "delayed"))),
        ("read_neuron", lambda self, m: reading(spec=NeuronSpec("leak", "ge", "zero", "same_step"))),
        ("read_neuron", lambda self, m: reading(initial={"v": 0.1})),
        (
            "read_neuron",
            lambda self, m: reading(parameters={"threshold": torch.tensor(1.0), "decay": torch.tensor(0.9000001)}),
        ),
    ],
    "test_returned_states_are_those_of_the_spec": [
        ("read_neuron", lambda self, m: reading(returns_state=True, initial={"v": 0.1})),
        ("read_neuron", lambda self, m: reading(returns_state=True, arguments=("v", "v_before"))),
        ("read_neuron", lambda self, m: reading(returns_state=True, grouped=True)),
    ],
    "test_attributes_hold_the_states": [
        ("read_neuron", lambda self, m: reading(attributes={"v": "threshold"})),
        ("read_neuron", lambda self, m: reading(attributes={"v_before": "v"})),
    ],
    "test_unreadable_neurons_have_reasons": [
        ("unreadable_neurons", lambda self: {"Toy": "it is a toy, and no spec describes it."}),
        ("unreadable_neurons", lambda self: {"Gelu": "no"}),
    ],
    "test_inner_layers_exist": [
        ("inner_layers", lambda self, m: ("recurrent",)),
        ("inner_layers", lambda self, m: "threshold"),
        ("inner_layers", lambda self, m: () if isinstance(m, Toy) else ("weight",)),
    ],
    "test_refuses_other_modules": [("read_neuron", lambda self, m: reading())],
    "test_refuses_changed_dynamics": [("read_neuron", lambda self, m: reading())],
    "test_has_its_reset_methods": [("reset_methods", ("reset",))],
    "test_reset_restores_v0_when_nested": [
        ("reset", lambda self, model: None),
        ("reset", reset_children_only),
        ("read_neuron", lambda self, m: reading(initial={"v": 0.1})),
    ],
    "test_reset_allows_another_batch_size": [("reset", lambda self, model: None)],
    "test_reset_leaves_other_models_alone": [("reset", reset_everything)],
    "test_state_round_trip": [("set_state", lambda self, m, s: None), ("get_state", lambda self, m: torch.zeros(()))],
    "test_initial_state_round_trip": [("set_state", lambda self, m, s: None)],
    "test_layers_keep_the_parameters": [
        ("layers", lambda self: {OwnLinear: OwnLinear}),
        ("layers", lambda self: {OwnLinear: ApartLayer}),
    ],
    "test_after_swap_lets_reset_find_new_neurons": [("reset", lambda self, model: None)],
    "test_capturing_leaves_things_as_they_were": [
        ("capturing", lambda self: None),
        ("capturing", lambda self: suppress(ZeroDivisionError)),
    ],
}


def test_every_contract_test_is_shown_to_fail() -> None:
    assert set(DEFECTS) == {name for name in vars(FrameworkContract) if name.startswith("test_")}


@pytest.mark.parametrize(
    ("test", "member", "instead"),
    [(test, *defect) for test, defects in DEFECTS.items() for defect in defects],
    ids=[f"{test}-{member}-{i}" for test, defects in DEFECTS.items() for i, (member, _) in enumerate(defects)],
)
def test_defects_are_caught(test: str, member: str, instead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = type("BrokenPlugin", (GoodPlugin,), {member: instead})()
    with pytest.raises((AssertionError, pytest.fail.Exception, UnsupportedNeuronError, RuntimeError)):
        run_contract_test(test, broken, monkeypatch)


@pytest.mark.parametrize("test", DEFECTS)
def test_nothing_else_is_caught(test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The good plugin passes when its tests are called as above."""
    run_contract_test(test, GoodPlugin(), monkeypatch)


def run_contract_test(test: str, plugin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call one test of the contract, outside pytest's own collection."""
    OTHERS.clear()
    states = test == "test_returned_states_are_those_of_the_spec"
    case = NeuronCase("toy", lambda: made(states))
    contract = type("Contract", (FrameworkContract,), {"framework": plugin, "neurons": (case,), "potential": "v"})()
    method = getattr(contract, test)
    available = {"neuron": case, "monkeypatch": monkeypatch}
    method(**{name: available[name] for name in inspect.signature(method).parameters})


def test_assert_same_bits() -> None:
    assert_same_bits(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]), "equal")
    assert_same_bits(torch.ones(2, 3).T, torch.ones(3, 2), "strided")
    for other, message in (
        (torch.tensor([1.0, -0.0]), r"x: 1 of 2 values differ in their bits, first at \(1,\): 0\.0 is not -0\.0"),
        (torch.zeros(1), r"x: shape \(2,\) against \(1,\)"),
        (torch.zeros(2).double(), "x: torch.float32 against torch.float64"),
    ):
        with pytest.raises(AssertionError, match=message):
            assert_same_bits(torch.tensor([1.0, 0.0]), other, "x")


def test_random_currents_of_images_follow_the_channel() -> None:
    theta = torch.tensor([0.75, 0.3]).view(2, 1, 1)
    x = random_currents(20, 10, (2, 3, 4), theta)
    assert x.shape == (20, 10, 2, 3, 4)
    for channel in range(2):
        assert bool((x[:, :, channel] == theta[channel]).any())
        assert not bool((x[:, :, channel] == theta[1 - channel]).any())


def test_random_currents_hit_the_threshold_and_its_neighbours() -> None:
    theta = torch.tensor([0.75, 0.3])
    x = random_currents(20, 50, 2, theta)
    assert x.shape == (20, 50, 2)
    assert torch.isfinite(x).all()
    for column in range(2):
        for value in (theta[column], torch.nextafter(theta[column], torch.tensor(9.0)), -theta[column]):
            assert bool((x[..., column] == value).any())
    assert torch.equal(x, random_currents(20, 50, 2, theta))
    assert not torch.equal(x, random_currents(20, 50, 2, theta, seed=1))
