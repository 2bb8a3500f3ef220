"""GPTQ: lower output errors than rounding, on what a layer sees over all time steps, and a model that stays whole."""

import copy
import io

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant import Binary, Ternary
from snn_extreme_quant.calibrate import gptq_, gptq_codes
from snn_extreme_quant.calibrate.inputs import rows_of
from snn_extreme_quant.config import Uniform
from snn_extreme_quant.errors import (
    ConfigError,
    NonFiniteWeightError,
    NothingToQuantizeError,
    SampleError,
    UnmatchedNameError,
)
from snn_extreme_quant.layers import Conv1d, Conv2d, Conv3d, Embedding, Linear

CONFIGS = [
    Uniform(3),
    Uniform(3, per="tensor", scale="mse"),
    Uniform(4, per="group", group_size=3),
    Ternary(scale="mse"),
    Ternary(scale="twn"),
    Ternary(scale="learned"),
    Ternary(per="group", group_size=5),
    Binary(),
]


def mixed(*shape: int, seed: int = 0, rank: int = 5) -> Tensor:
    """Inputs that go together: only then is there an error to make up for."""
    generator = torch.Generator().manual_seed(seed)
    *batch, inputs = shape
    return torch.rand(*batch, rank, generator=generator) @ torch.rand(rank, inputs, generator=generator)


def layer_model(config, inputs: int = 20, outputs: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs))
    sxq.quantize_(model, config)
    return model


# One matrix.


def test_independent_inputs_are_rounded() -> None:
    weight, scale = torch.randn(4, 9, dtype=torch.float64), torch.ones(4, 9, dtype=torch.float64)
    gram = torch.diag(torch.arange(9.0, dtype=torch.float64))  # the first input was always 0
    codes = gptq_codes(weight, scale, gram, lambda w, s: (w / s).round())
    assert torch.equal(codes, weight.round())


def test_it_is_the_greedy_choice_with_the_best_remainder() -> None:
    """After each column, the columns to the right solve the least-squares problem that is left (the definition)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 6, dtype=torch.float64, generator=generator)
    weight = torch.randn(1, 6, dtype=torch.float64, generator=generator)
    gram = x.T @ x
    codes = gptq_codes(weight, torch.full_like(weight, 0.4), gram, lambda w, s: (w / s).round(), damping=0.0)
    current = weight[0].clone()
    for j in range(6):
        chosen = (current[j] / 0.4).round()
        assert codes[0, j] == chosen
        wrong = x[:, j] * (current[j] - chosen * 0.4)
        current[j + 1 :] += torch.linalg.lstsq(x[:, j + 1 :], wrong).solution if j < 5 else 0.0


def test_blocks_do_not_change_the_result(monkeypatch) -> None:
    x = mixed(300, 150, rank=60).double()
    weight = torch.randn(5, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    arguments = (weight, torch.full_like(weight, 0.3), x.T @ x, lambda w, s: (w / s).round())
    blocked = gptq_codes(*arguments)
    monkeypatch.setattr("snn_extreme_quant.calibrate.gptq._BLOCK", 1000)
    assert torch.equal(blocked, gptq_codes(*arguments))


def test_a_singular_matrix_without_damping() -> None:
    x = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"damping=0\.0 leaves the inputs' matrix singular"):
        gptq_codes(torch.ones(1, 2).double(), torch.ones(1, 2).double(), x.T @ x, torch.round, damping=0.0)


# What a layer sees.


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Linear(6, 4, bias=False), (3, 2, 6)),
        (Linear(6, 4, bias=False), (6,)),
        (Conv1d(4, 6, 3, padding=1, bias=False), (2, 4, 9)),
        (Conv1d(4, 6, 3, bias=False), (4, 9)),
        (Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False), (2, 4, 9, 8)),
        (Conv2d(4, 6, 3, padding="same", groups=2, bias=False), (2, 4, 5, 6)),
        (Conv2d(4, 8, 3, padding=1, padding_mode="circular", groups=4, bias=False), (2, 4, 5, 6)),
        (Conv3d(2, 4, 2, stride=2, bias=False), (2, 2, 4, 5, 6)),
    ],
    ids=str,
)
def test_rows_times_weights_are_the_product(layer, shape) -> None:
    torch.manual_seed(0)
    x = torch.rand(shape)
    rows = rows_of(layer)(layer, x)
    weight = layer.dequantised().detach().flatten(1).unflatten(0, (rows.shape[0], -1))
    output = (rows @ weight.transpose(1, 2)).movedim(0, 1).flatten(1)  # (M, N)
    want = layer(x).detach()
    axis = -1 if isinstance(layer, Linear) else layer._input_axis
    torch.testing.assert_close(output, want.movedim(axis, -1).reshape(-1, want.shape[axis]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_output_error_falls_and_the_report_says_by_how_much(config) -> None:
    model = layer_model(config)
    layer, x = model[0], mixed(64, 20)
    weight = layer.weight.detach().clone()

    def error() -> float:
        return (F.linear(x, layer.dequantised() - weight).square().sum() / F.linear(x, weight).square().sum()).item()

    before, scale = error(), layer.integer_weight()[1].clone()
    (entry,) = gptq_(model, [x[:32], x[32:]]).layers
    assert (entry.name, entry.rows) == ("0", 64)
    assert entry.error_rounded == pytest.approx(before, rel=1e-4)
    assert entry.error == pytest.approx(error(), rel=1e-3, abs=1e-9)
    assert entry.error < 0.7 * entry.error_rounded
    assert not entry.kept_rounded
    codes, after = layer.integer_weight()
    assert torch.equal(after, scale)
    torch.testing.assert_close(layer.weight, layer.dequantised(), rtol=0, atol=0)
    assert codes.abs().max() <= layer.quantizer.largest


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=groups), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2))
    sxq.quantize_(model, Uniform(3))
    x = mixed(4, 4, 12, 12, rank=2)
    floats = model[0].weight.detach().clone()
    want = F.conv2d(x, floats, None, padding=1, groups=groups)
    before = (model[0].product(x) - want).square().sum()
    report = gptq_(model, [x])
    assert [entry.name for entry in report.layers] == ["0", "2"]
    assert all(entry.error < entry.error_rounded for entry in report.layers)
    assert (model[0].product(x) - want).square().sum() < before


@pytest.mark.parametrize(
    ("config", "seed", "rows"),
    [(Binary(), 44, 4), (Ternary(scale="mse"), 47, 4), (Uniform(2), 38, 64), (Uniform(3), 54, 64)],
    ids=str,
)
def test_nearest_codes_are_kept_where_the_error_would_rise(config, seed, rows) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 2))
    sxq.quantize_(model, config)
    layer, x = model[0], mixed(rows, 6, seed=seed)
    weight, (codes, scale) = layer.weight.detach().clone(), layer.integer_weight()
    codes, scale, before = codes.clone(), scale.clone(), model(x)

    steps = scale.double().unsqueeze(1).expand_as(weight)
    gram = x.double().T @ x.double()
    other = gptq_codes(weight.double(), steps, gram, layer.quantizer.codes) * steps
    wrong, whole = (x.double() @ (other - weight).T).square().sum(), (x.double() @ weight.double().T).square().sum()

    report = gptq_(model, [x])
    (entry,) = report.layers
    assert entry.kept_rounded
    assert entry.error == entry.error_rounded < entry.error_gptq
    assert entry.error_gptq == pytest.approx((wrong / whole).item(), rel=1e-4)
    assert str(report) == (
        f"0  output error {entry.error:.3g}: nearest codes kept, GPTQ's would give {entry.error_gptq:.3g}"
    )
    assert torch.equal(layer.integer_weight()[0], codes)
    assert torch.equal(layer.integer_weight()[1], scale)
    assert torch.equal(model(x), before)
    torch.testing.assert_close(layer.weight, layer.dequantised(), rtol=0, atol=0)


# Spiking networks in a loop over time.

STEPS = 8


class Net(nn.Module):
    """The user loops over time steps outside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 48)
        self.lif1 = snn.Leaky(beta=0.9, init_hidden=True)
        self.fc2 = nn.Linear(48, 10)
        self.lif2 = snn.Leaky(beta=0.9, init_hidden=True, output=True, reset_mechanism="none")

    def forward(self, x: Tensor) -> Tensor:
        return self.lif2(self.fc2(self.lif1(self.fc1(x))))[1]


def loop(model: nn.Module, images: Tensor) -> Tensor:
    """Present each image as spikes over the time steps; the last membrane potential votes."""
    generator = torch.Generator().manual_seed(5)
    spikes = (torch.rand(STEPS, *images.shape, generator=generator) < images).float()
    for step in spikes:
        membrane = model(step)
    return membrane


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    return images[:1200], labels[:1200], images[1200:], labels[1200:]


@pytest.fixture(scope="module")
def trained(digits) -> Net:
    torch.manual_seed(0)
    model = Net()
    images, labels, _, _ = digits
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(6):
        for x, y in zip(images.split(100), labels.split(100), strict=True):
            sxq.reset(model)
            optimizer.zero_grad()
            F.cross_entropy(loop(model, x), y).backward()
            optimizer.step()
    sxq.reset(model)
    return model


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        sxq.reset(model)
        return loop(model, images)


@pytest.mark.parametrize("config", [Uniform(3), Ternary(scale="mse")], ids=str)
def test_a_trained_network_on_data_it_was_not_calibrated_on(trained, digits, config) -> None:
    images, _, held_out, labels = digits
    rounded = copy.deepcopy(trained)
    sxq.quantize_(rounded, config)
    calibrated = copy.deepcopy(trained)
    sxq.quantize_(calibrated, config)
    report = gptq_(calibrated, images[:400].split(100), run=loop)
    assert [entry.name for entry in report.layers] == ["fc1", "fc2"]
    assert [entry.rows for entry in report.layers] == [400 * STEPS] * 2
    want = logits(trained, held_out)
    assert (want.argmax(1) == labels).float().mean() > 0.9
    errors = [(logits(model, held_out) - want).square().mean() for model in (rounded, calibrated)]
    assert errors[1] < 0.8 * errors[0]
    agreement = [
        (logits(model, held_out).argmax(1) == want.argmax(1)).float().mean() for model in (rounded, calibrated)
    ]
    assert agreement[1] > agreement[0] - 0.02


def test_later_time_steps_count() -> None:
    """An input that speaks only at t = 1 must shape the codes: without it they would be others."""
    late, early = mixed(64, 20, seed=1), mixed(64, 20, seed=2)

    def over_time(model: nn.Module, batch: Tensor) -> None:
        for step in batch:
            model(step)

    both, first, second = (layer_model(Ternary(scale="mse")) for _ in range(3))
    entry = gptq_(both, [torch.stack([early, late])], run=over_time).layers[0]
    gptq_(first, [early])
    gptq_(second, [torch.cat([early, late])])
    assert entry.rows == 128
    assert not torch.equal(both[0].weight, first[0].weight)
    assert torch.equal(both[0].weight, second[0].weight)
    floats = layer_model(Ternary(scale="mse"))[0].weight
    errors = [F.linear(late, model[0].weight - floats).square().sum() for model in (first, both)]
    assert errors[1] < errors[0]


def test_a_later_layer_sees_the_calibrated_one_before_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 8))
    sxq.quantize_(model, Uniform(3))
    x = mixed(64, 20)
    alone = copy.deepcopy(model)
    gptq_(alone, [x], names="0")
    gptq_(model, [x])
    assert torch.equal(model[0].weight, alone[0].weight)
    gptq_(alone, [x], names="2")
    assert torch.equal(model[2].weight, alone[2].weight)


def test_spikingjelly_in_one_step_and_in_many() -> None:
    """Both step modes give the layers the same rows, and so the same codes."""
    from spikingjelly.activation_based import functional, layer, neuron

    def build(step_mode: str) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(
            layer.Conv2d(2, 4, 3), neuron.LIFNode(v_threshold=0.3), layer.Flatten(), layer.Linear(64, 5)
        )
        functional.set_step_mode(model, step_mode)
        sxq.quantize_(model, Uniform(3))
        return model

    x = mixed(6, 3, 2, 6, 6, rank=2)
    single, multi = build("s"), build("m")
    reports = [
        gptq_(single, [x], run=lambda model, batch: [model(step) for step in batch]),
        gptq_(multi, [x]),
    ]
    assert [entry.rows for entry in reports[0].layers] == [6 * 3 * 16, 6 * 3]
    assert [entry.rows for entry in reports[1].layers] == [6 * 3 * 16, 6 * 3]
    assert torch.equal(single[0].weight, multi[0].weight)
    assert torch.equal(single[3].weight, multi[3].weight)
    assert all(entry.error < entry.error_rounded for entry in reports[1].layers)


# The model stays whole.


def test_state_dict_of_a_calibrated_model_loads() -> None:
    model = layer_model(Uniform(3))
    gptq_(model, [mixed(64, 20)])
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = layer_model(Uniform(3))
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    x = mixed(3, 20)
    assert torch.equal(fresh(x), model(x))


def test_modes_state_and_methods_are_put_back(trained) -> None:
    model = copy.deepcopy(trained)
    sxq.quantize_(model, Uniform(4))
    model.train()
    model.lif1.eval()
    gptq_(model, [torch.rand(4, 64)], run=loop)
    assert (model.training, model.fc1.training, model.lif1.training) == (True, True, False)
    assert "product" not in vars(model.fc1)
    fresh = copy.deepcopy(model)
    sxq.reset(fresh)
    x = torch.ones(2, 64)
    assert torch.equal(model(x), fresh(x))


def test_dropout_is_off() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.9), nn.Linear(20, 8))
    sxq.quantize_(model, Uniform(3))
    twin = nn.Sequential(copy.deepcopy(model[1]))
    gptq_(model, [mixed(64, 20)])
    gptq_(twin, [mixed(64, 20)])
    assert torch.equal(model[1].weight, twin[0].weight)


def test_an_error_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 8))
    sxq.quantize_(model, Uniform(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = []

    def run(model: nn.Module, x: Tensor) -> None:
        calls.append(1)
        model(x)
        if len(calls) == 3:  # the first layer is done
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gptq_(model, [mixed(64, 20)], run=run)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "product" not in vars(model[2])


def test_report_lists_what_was_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    sxq.quantize_(model, sxq.PrecisionPlan({"0": Binary(center=True)}, default=Uniform(3)))
    model.append(Linear(4, 2))
    report = gptq_(model, [mixed(8, 4)])
    left = {entry.name: entry.reason for entry in report.left}
    assert "centred binary codes depend on the weights' mean" in left["0"]
    assert left["1"] == left["2"] == "another layer shares its weight"
    assert [entry.name for entry in report.layers] == ["3"]
    assert "3  output error " in str(report)
    assert "1  left: another layer shares its weight" in str(report)
    only = gptq_(model, [mixed(8, 4)], names=["3"])
    assert {entry.reason for entry in only.left} == {"not among the names"}


def test_a_silent_layer_is_left() -> None:
    model = layer_model(Uniform(3))
    model.append(nn.Linear(8, 2))
    sxq.quantize_(model, Uniform(3))
    model[0].weight.data.zero_()
    model[0].bias.data.zero_()
    before = model[1].weight.detach().clone()
    report = gptq_(model, [mixed(8, 20)])
    assert [(entry.name, entry.reason) for entry in report.left] == [("1", "all its inputs were 0")]
    assert torch.equal(model[1].weight, before)


class _Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = Linear(20, 8, config=Uniform(3)), Linear(20, 8, config=Uniform(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def _with_nan(model: nn.Sequential) -> nn.Sequential:
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gptq_(layer_model(Uniform(3)), []), SampleError, "got no batches"),
        (lambda: gptq_(_Forgetful(), [mixed(4, 20)]), SampleError, "'unused' is never called.*names="),
        (lambda: gptq_(layer_model(Uniform(3)), [torch.full((2, 20), torch.nan)]), SampleError, "'0' are NaN or inf"),
        (lambda: gptq_(_with_nan(layer_model(Uniform(3))), [mixed(4, 20)]), NonFiniteWeightError, "weight of '0'"),
        (lambda: gptq_(nn.Linear(2, 2), [mixed(4, 2)]), NothingToQuantizeError, r"with quantize_\(\)"),
        (lambda: gptq_(layer_model(Binary(center=True)), [mixed(4, 20)]), NothingToQuantizeError, "centred"),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], names=["o"]), UnmatchedNameError, "'o' in names"),
        (
            lambda: gptq_(nn.Sequential(Embedding(4, 2), Linear(2, 2)), [torch.tensor([1])], names=["0"]),
            ConfigError,
            "'0' cannot be calibrated: Embedding",
        ),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], damping=-1), ConfigError, r"damping=-1\): use"),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], damping=True), ConfigError, "damping=True"),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], damping=float("inf")), ConfigError, "damping=inf"),
        (lambda: gptq_(layer_model(Uniform(3)), [mixed(4, 20)], damping=0.0), ConfigError, "singular"),
        (
            lambda: gptq_(layer_model(Uniform(9)).bfloat16(), [mixed(4, 20).bfloat16()]),
            ConfigError,
            "'0': torch.bfloat16 is too coarse.*float32",
        ),
    ],
)
def test_what_cannot_be_calibrated(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_names_that_are_left_out_need_no_calls() -> None:
    model = _Forgetful()
    report = gptq_(model, [mixed(64, 20)], names=["used"])
    assert [entry.name for entry in report.layers] == ["used"]
