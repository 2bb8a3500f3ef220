"""Bodies that leave out what does nothing for a file's constants: the same bits, and only where it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.deploy.lowering.body_facts import GENERAL, BodyFacts, body_facts
from snn_extreme_quant.deploy.lowering.functions import DOMAIN, NeuronFunction, function_body
from snn_extreme_quant.exported.operators import layout_of
from snn_extreme_quant.neurons import NeuronSpec, neuron_sequence
from snn_extreme_quant.quantizers.packing import LAYOUTS
from tests.deploy.bodies import assert_body
from tests.operators.layers import layer_cases
from tests.operators.neurons import SPECS, arrays, parameters_of

neuron = pytest.importorskip("spikingjelly.activation_based.neuron")

RELAXING = [spec for spec in SPECS if spec.charge in ("relax", "relax_input")]
ONE_STATE = BodyFacts(scalar_states=True)
TO_ZERO = BodyFacts(scalar_states=True, rests_at_zero=True, halves=True)
LIF = "LIF_relax_ge_subtract_same_step"


def _operators(operator: str, facts: BodyFacts = GENERAL) -> list[str]:
    """What a body is made of, the loop's body included."""
    found = []
    for node in function_body(operator, facts).node:
        found += [node.op_type, *(inner.op_type for a in node.attribute for inner in a.g.node)]
    return found


@pytest.mark.parametrize("tau", [2.0, 0.25])
@pytest.mark.parametrize("spec", RELAXING[::3], ids=lambda spec: spec.operator)
def test_neurons_that_relax_to_zero(spec: NeuronSpec, tau: float) -> None:
    function = NeuronFunction(spec, states=True)
    parameters = parameters_of(spec, vector=False) | {"rest": torch.tensor(0.0), "tau": torch.tensor(tau)}
    x = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(3)) * 1.5
    x[:, 0, 0] = torch.tensor([3e-45, 0.0, 5e-45, 1.2e-38, 0.0, 0.0])  # quotients that lose bits: subnormal numbers
    state = {name: torch.tensor(0.0) for name in spec.states}
    spikes, after = neuron_sequence(spec, parameters, x, state)
    wanted = [spikes, *(after[name] for name in spec.outputs[1:])]
    constants = arrays(state, suffix="0") | arrays(parameters)
    assert_body(function.name, {"xs": x.numpy()}, constants, wanted, facts=TO_ZERO)
    general, lean = _operators(function.name, ONE_STATE), _operators(function.name, TO_ZERO)
    assert lean.count("Mul") == general.count("Mul") + 1
    assert (spec.reset == "zero" and spec.timing != "same_step") or lean.count("Sub") == general.count("Sub") - 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (2, 0), ()])
def test_one_state_for_all_neurons(shape: tuple[int, ...]) -> None:
    spec = NeuronSpec("synaptic", "gt", "subtract", "delayed")
    parameters = parameters_of(spec, vector=False)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    for start in (torch.tensor(0.25), torch.tensor([0.25])):
        state = dict.fromkeys(spec.states, torch.tensor(0.25))
        spikes, _ = neuron_sequence(spec, parameters, x, state)
        constants = arrays(dict.fromkeys(spec.states, start), suffix="0") | arrays(parameters)
        assert_body(spec.operator, {"xs": x.numpy()}, constants, [spikes], facts=ONE_STATE)


@pytest.mark.parametrize(
    "operator",
    ["BinaryLinearInteger", "TernaryLinearInteger", "Ternary5LinearInteger", "Int8LinearInteger",
     "TernaryLinearIntegerSigned", "Int4LinearIntegerSigned"],
)  # fmt: skip
def test_layers(operator: str) -> None:
    per_byte = LAYOUTS[layout_of(operator)].per_byte
    full = [case for case in layer_cases(operator) if len(case.constants["scale"]) % per_byte == 0]
    assert full
    for case in full:
        assert_body(
            operator, case.inputs, case.constants, case.expected,
            facts=BodyFacts(full_bytes=True, bare=True), **case.attributes,
        )  # fmt: skip
    lean = _operators(operator, BodyFacts(full_bytes=True, bare=True))
    assert {"Slice", "Unsqueeze", "Squeeze"} <= set(_operators(operator))
    assert not {"Slice", "Unsqueeze", "Squeeze"} & set(lean)


class Net(nn.Module):
    """A product, neurons, and what may stand between."""

    def __init__(self, columns: int = 8, *, bias: bool = False, tau: float = 2.0, v_reset: float | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(12, columns, bias=bias)
        self.lif = neuron.LIFNode(tau=tau, decay_input=False, v_threshold=0.1, v_reset=v_reset, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lif(self.linear(x))


class _Shown(Net):
    """The current is an output of the file too."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        current = self.linear(x)
        return self.lif(current), current


def _file(folder: Path, net: nn.Module) -> tuple[onnx.ModelProto, dict[str, BodyFacts]]:
    torch.manual_seed(0)
    sxq.quantize_(net.eval(), sxq.Ternary())
    x = (torch.rand(5, 3, 12) < 0.4).float()
    sxq.export_onnx(net, x, folder / "net.onnx", input="spikes")
    verified = sxq.verify(net, folder / "net.onnx", x)
    assert verified.ok
    proto = onnx.load(folder / "net.onnx")
    return proto, {body.name: body_facts(body.name, proto.graph) for body in proto.functions}


def test_files_have_the_bodies_of_their_facts(tmp_path: Path) -> None:
    proto, facts = _file(tmp_path, Net())
    assert facts == {"TernaryLinearInteger": BodyFacts(full_bytes=True, bare=True), LIF: TO_ZERO}
    for body in proto.functions:
        assert body == function_body(body.name, facts[body.name])


def test_what_does_not_hold(tmp_path: Path) -> None:
    assert _file(tmp_path, Net(columns=7))[1]["TernaryLinearInteger"] == BodyFacts(bare=True)
    assert _file(tmp_path, Net(bias=True))[1]["TernaryLinearInteger"] == BodyFacts(full_bytes=True)
    assert _file(tmp_path, Net(tau=3.0))[1][LIF] == replace(TO_ZERO, halves=False)
    resting = _file(tmp_path, Net(v_reset=-0.25))[1]["LIF_relax_ge_value_same_step"]
    assert resting == replace(TO_ZERO, rests_at_zero=False)
    assert _file(tmp_path, _Shown())[1]["TernaryLinearInteger"] == BodyFacts(full_bytes=True)


def test_one_node_of_several_decides(tmp_path: Path) -> None:
    net = nn.Sequential(Net(12), Net(8, tau=3.0))
    assert _file(tmp_path, net)[1][LIF] == replace(TO_ZERO, halves=False)
    net = nn.Sequential(Net(12), Net(7))
    assert _file(tmp_path, net)[1]["TernaryLinearInteger"] == BodyFacts(bare=True)


def test_numbers_that_only_seem_to_hold(tmp_path: Path) -> None:
    proto, _ = _file(tmp_path, Net())
    node = next(node for node in proto.graph.node if node.op_type == LIF and node.domain == DOMAIN)
    places = dict(zip(function_body(LIF).input, node.input, strict=True))
    for name, value, fact in (
        ("tau", np.float32(1.5), "halves"),
        ("tau", np.float32(2.0**-140), "halves"),
        ("tau", np.float32(np.inf), "halves"),
        ("rest", np.float32(1e-45), "rests_at_zero"),
        ("v0", np.zeros(8, np.float32), "scalar_states"),
        ("v0", np.zeros((1, 1), np.float32), "scalar_states"),
    ):
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        stored = next(constant for constant in changed.graph.initializer if constant.name == places[name])
        stored.CopyFrom(numpy_helper.from_array(np.asarray(value), stored.name))
        assert not getattr(body_facts(LIF, changed.graph), fact), (name, value)
        changed.graph.initializer.remove(stored)
        assert not getattr(body_facts(LIF, changed.graph), fact), f"{name} is no constant"
