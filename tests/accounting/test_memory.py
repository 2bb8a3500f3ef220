"""The predicted memory of weights: on paper, of models, and against the files that models become."""

import math

import onnx
import pytest
import snntorch as snn
import torch
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant import Binary, Float, PrecisionPlan, Ternary, Uniform
from snn_extreme_quant.accounting import WeightShape, file_memory, weight_memory, weight_shapes
from snn_extreme_quant.errors import ConfigError, UnmatchedNameError, UnsupportedModelError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikingBert, SpikingBertConfig, zoo
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack

CONFIGS = (Binary(), Ternary(), *(Uniform(bits) for bits in range(2, 17)))


@pytest.fixture(scope="module")
def released_size():
    with torch.device("meta"):
        return weight_shapes(SpikeGPT(SpikeGPTConfig()))


@pytest.mark.parametrize(
    ("bits", "megabytes"), [(16, 431), (14, 377), (12, 323), (10, 270), (8, 216), (6, 162), (4, 108)]
)
def test_uniform_sizes_of_the_released_spike_gpt(released_size, bits, megabytes) -> None:
    """The published ones (862 MB in float) count no scales; ours do."""
    memory = weight_memory(released_size, Uniform(bits))
    assert memory.as_float == 4 * 215_399_424
    assert round((memory.total - memory.scales) / 1e6) == megabytes
    assert memory.scales == 4 * (2 * 50277 + 18 * 10 * 768)


def tied_net() -> nn.Sequential:
    """Return three layers, of which the first two have one weight."""
    torch.manual_seed(0)
    lif = {"beta": 0.9, "threshold": 0.3, "init_hidden": True}
    layers = [part for _ in range(3) for part in (nn.Linear(64, 64), snn.Leaky(**lif))]
    layers[2].weight = layers[0].weight
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "plan", [{}, {"*": Ternary()}, {"4": Ternary()}, {"0": Ternary(), "4": Binary()}, {"0": Ternary(), "2": Uniform(4)}]
)
def test_tied_weights_count_as_files_hold_them(tmp_path, plan) -> None:
    net, spikes = tied_net(), (torch.rand(4, 2, 64) < 0.4).float()
    if plan:
        sxq.quantize_(net, PrecisionPlan(plan))
    memory = weight_memory(net)
    assert memory.as_float == 4 * (2 * 64 * 64 + 3 * 64)
    assert weight_memory(tied_net(), PrecisionPlan(plan)).total == memory.total
    sxq.export_onnx(net, spikes, tmp_path / "net.onnx", input="spikes")
    assert file_memory(tmp_path / "net.onnx").weights == pytest.approx(memory.total, abs=64)


@pytest.mark.parametrize("weights", ["float", "ternary"])
def test_files_of_a_tied_spike_gpt_hold_two_tables(tmp_path, weights) -> None:
    sizes = {"vocab": 3000, "layers": 1, "hidden": 32, "binary_embedding": False}
    model = SpikeGPT(SpikeGPTConfig(tied=True, weights=weights, **sizes)).eval()
    sxq.deploy.export_gpt(model, tmp_path / "gpt.onnx")
    assert file_memory(tmp_path / "gpt.onnx").weights == pytest.approx(weight_memory(model).total, rel=0.01)


@pytest.mark.parametrize(("head", "inputs"), [("mean", "norms"), ("last", "norms"), ("mean", "spikes")])
def test_files_of_classifiers_hold_what_their_plan_says(tmp_path, head, inputs) -> None:
    plan = PrecisionPlan({"blocks.*.att.*": Uniform(3), "blocks.*.ffn.key": Ternary(), "head": Uniform(8)})
    model = SpikeGPT(SpikeGPTConfig(vocab=3000, layers=1, hidden=64, head=head, classes=40, inputs=inputs)).eval()
    for name, parameter in model.named_parameters():
        if "time_mix" in name:
            nn.init.uniform_(parameter)  # as after training: equal ones are in a file once
    predicted = weight_memory(model, plan).total
    model.set_weights(plan)
    assert weight_memory(model).total == predicted
    sxq.deploy.export_gpt(model, tmp_path / "gpt.onnx")
    assert file_memory(tmp_path / "gpt.onnx").weights == pytest.approx(predicted, rel=0.01)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("plan", [{}, {"blocks.*": Uniform(4)}, {"head": Ternary()}], ids=str)
def test_a_binarised_embedding_counts_as_bits_whatever_the_plan(tmp_path, plan, tied) -> None:
    config = SpikeGPTConfig(vocab=3000, layers=1, hidden=32, tied=tied)
    model = SpikeGPT(config).eval()
    memory = weight_memory(model, PrecisionPlan(plan))
    assert memory.matrices[0].total == 3000 * (32 // 8 + 4)
    if plan:
        model.set_weights(PrecisionPlan(plan))
    assert weight_memory(model).total == memory.total
    sxq.deploy.export_gpt(model, tmp_path / "gpt.onnx")
    assert file_memory(tmp_path / "gpt.onnx").weights == pytest.approx(memory.total, rel=0.01)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@pytest.mark.parametrize("outputs", [1, 2, 9, 64])
def test_codes_take_what_packing_gives(config, outputs) -> None:
    (matrix,) = weight_memory([("a", (outputs, 5), "Linear")], config).matrices
    assert matrix.codes == pack([[1] * outputs] * 5, matrix.layout).nbytes
    (table,) = weight_memory([("a", (5, outputs), "Embedding")], config).matrices
    assert (table.codes, table.scales) == (matrix.codes, 20)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_layout_is_the_quantisers(config) -> None:
    layer = sxq.Linear(4, 3, config=config)
    (matrix,) = weight_memory(nn.Sequential(layer)).matrices
    assert (matrix.layout, matrix.config) == (layer.quantizer.layout, config)
    if isinstance(config, Uniform):
        assert LAYOUTS[matrix.layout].largest == 2 ** (config.bits - 1) - 1


def test_groups_have_scales_of_their_own() -> None:
    paper = [("a", (8, 10), "Linear"), ("b", (6, 10, 3), "Conv"), ("c", (7, 10), "Embedding")]
    a, b, c = weight_memory(paper, Binary(per="group", group_size=4)).matrices
    assert (a.codes, a.scales) == (10, 4 * 8 * 3)
    assert (b.codes, b.scales) == (30, 4 * 6 * 3)
    assert (c.codes, c.scales) == (7 * 3, 4 * 7 * 3)  # the three parts of a row begin a byte each


def test_parts_add_up_and_print() -> None:
    paper = [("a", (256, 64), "Linear"), ("b", (10,), "Parameter"), WeightShape("c", (4, 4))]
    memory = weight_memory(paper, PrecisionPlan({"a": Uniform(10)}))
    assert [m.total for m in memory.matrices] == [64 * 320 + 1024, 64]
    assert memory.total == memory.codes + memory.scales + memory.other == 64 * 320 + 1024 + 64 + 40
    assert memory.as_float == 4 * (256 * 64 + 10 + 16)
    assert memory.reduction == 1 - memory.total / memory.as_float
    assert str(memory).splitlines()[0].startswith("0.02 MB, 67.1% below float32 (codes 20,544, scales 1,024, other")
    assert "c  Linear  4x4     float  64 B" in str(memory)


def test_ternary_in_1_6_bit() -> None:
    paper = [("a", (10, 8), "Linear"), ("b", (10, 8), "Linear")]
    a, b = weight_memory(paper, PrecisionPlan({"a": Uniform(2)}, Ternary()), ternary_packing="1.6bit").matrices
    assert (a.codes, b.codes, a.layout) == (16, 16, "ternary5")


def test_nothing_has_no_memory() -> None:
    empty = weight_memory([])
    assert (empty.total, empty.as_float, empty.reduction) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("paper", "said"),
    [
        ([("a", (2, 3), "Linaer")], "Did you mean 'Linear'"),
        ([("a", (2, 3, 4), "Linear")], r"'a': a Linear has no shape \(2, 3, 4\)"),
        ([("a", (2, 3), "Conv")], "'a': a Conv has no shape"),
        ([("a", (2, -3), "Linear")], "'a': a Linear has no shape"),
        ([("a", (2, 3.0), "Linear")], "'a': a Linear has no shape"),
        ([("a", (2, 3), "Linear"), ("a", (2, 3), "Linear")], "Two weights are called 'a'"),
        ([("a",)], r"\(name, shape, kind\)"),
        (["a"], r"\(name, shape, kind\)"),
        (7, r"got int"),
    ],
)
def test_wrong_paper_is_refused(paper, said) -> None:
    with pytest.raises(ConfigError, match=said):
        weight_memory(paper, Binary())


def test_wrong_plans_are_refused() -> None:
    paper = [("a", (2, 3), "Linear"), ("norm", (3,), "Parameter"), WeightShape("b", (2, 3), aliases=("c",))]
    with pytest.raises(UnmatchedNameError, match="'d' in the plan matches no layer"):
        weight_memory(paper, PrecisionPlan({"d": Binary()}))
    with pytest.raises(UnmatchedNameError, match="'norm' cannot be quantised: it is no matrix"):
        weight_memory(paper, PrecisionPlan({"norm": Binary()}))
    with pytest.raises(ConfigError, match="shared layer b = c different precisions"):
        weight_memory(paper, PrecisionPlan({"b": Binary()}))
    with pytest.raises(ConfigError, match="takes a PrecisionPlan"):
        weight_memory(paper, "ternary")
    with pytest.raises(ConfigError, match=r"ternary_packing='1\.5bit': Did you mean"):
        weight_memory(paper, ternary_packing="1.5bit")
    with pytest.raises(UnsupportedModelError, match="'0' is lazy"):
        weight_memory(nn.Sequential(nn.LazyLinear(3)))


def test_layers_that_are_not_swapped_stay_float() -> None:
    net = nn.Sequential(nn.MultiheadAttention(8, 2), nn.GRU(8, 8), nn.Linear(8, 4))
    memory = weight_memory(net, Binary())
    assert [m.name for m in memory.matrices] == ["2"]
    others = sum(p.numel() for name, p in net.named_parameters() if name != "2.weight")
    assert memory.other == 4 * others


def test_model_and_its_quantised_copy_agree() -> None:
    plan = PrecisionPlan({"0": Binary(), "2": Uniform(6, per="group", group_size=5)}, default=Ternary())
    net = nn.Sequential(nn.Linear(16, 24), snn.Leaky(0.9, init_hidden=True), nn.Linear(24, 12), nn.Linear(12, 3))
    net.append(net[3])  # one layer under two names
    before = weight_memory(net, plan)
    sxq.quantize_(net, plan)
    assert weight_memory(net) == before == weight_memory(net, plan)
    assert weight_memory(net, Float()).codes == before.as_float - before.other


def test_scales_that_are_learned_count_once() -> None:
    layer = sxq.Linear(16, 8, config=Ternary(scale="learned"))
    memory = weight_memory(nn.Sequential(layer))
    assert (memory.scales, memory.other) == (32, 32)  # and the bias


def _convolutional():
    lif = {"beta": 0.9, "init_hidden": True}
    layers = [
        nn.Conv2d(2, 32, 3, bias=False),
        nn.BatchNorm2d(32),
        snn.Leaky(**lif),
        nn.Conv2d(32, 40, 3),
        snn.Leaky(**lif),
    ]
    layers += [nn.ConvTranspose2d(40, 48, 3), snn.Leaky(**lif), nn.Flatten(), nn.Linear(48 * 36, 50), snn.Leaky(**lif)]
    return nn.Sequential(*layers, nn.Linear(50, 10)), (torch.rand(4, 1, 2, 8, 8) < 0.4).float()


_MIXED = PrecisionPlan({"0": Float(), "3": Ternary(), "5": Uniform(10), "8": Uniform(3)}, default=Binary())
_OTHERS = PrecisionPlan({"0": Uniform(12), "3": Uniform(5), "5": Uniform(2), "8": Uniform(6)}, default=Uniform(14))
_GROUPS = PrecisionPlan({"8": Ternary(per="group", group_size=600)}, default=Uniform(7, per="tensor"))


@pytest.mark.parametrize(
    ("plan", "packing"), [(_MIXED, "2bit"), (_MIXED, "1.6bit"), (_OTHERS, "2bit"), (_GROUPS, "2bit")]
)
def test_prediction_is_within_a_percent_of_the_file(tmp_path, plan, packing) -> None:
    net, spikes = _convolutional()
    predicted = weight_memory(net, plan, ternary_packing=packing)
    sxq.quantize_(net, plan)
    sxq.export_onnx(net.eval(), spikes, tmp_path / "net.onnx", input="spikes", ternary_packing=packing)
    stored = file_memory(tmp_path / "net.onnx")
    assert stored.weights == pytest.approx(predicted.total, rel=0.01)
    assert stored.total == (tmp_path / "net.onnx").stat().st_size > stored.weights
    assert math.isclose(predicted.as_float, 4 * sum(p.numel() for p in net.parameters()), rel_tol=0.01)


@pytest.mark.parametrize("form", ["sequence", "counts"])
def test_prediction_of_a_spiking_bert(tmp_path, form) -> None:
    """Mixed widths, tables among them; parameters differ, as of a trained model: equal ones are stored once."""
    rules = {"embeddings.words": Uniform(6), "embeddings.positions": Uniform(11), "*.intermediate": Uniform(3)}
    plan = PrecisionPlan({**rules, "*.attention.*": Binary(), "encoder.1.output": Uniform(5)}, default=Uniform(12))
    torch.manual_seed(0)
    sizes = {"vocab": 2000, "positions": 64, "layers": 2, "hidden": 96, "heads": 4, "ffn": 384, "T": 8}
    model = SpikingBert(SpikingBertConfig(**sizes, weights=plan)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.rand_like(parameter))
    sxq.export_onnx(model, torch.randint(1, 2000, (2, 12)), tmp_path / "bert.onnx", form=form)
    predicted = weight_memory(model)
    constants = onnx.load(tmp_path / "bert.onnx").graph.initializer
    packed = {c.name.removesuffix(".packed"): len(c.raw_data) for c in constants if c.name.endswith(".packed")}
    assert packed == {m.name: m.codes for m in predicted.matrices}
    assert file_memory(tmp_path / "bert.onnx").weights == pytest.approx(predicted.total, rel=0.01)


@pytest.mark.parametrize("name", zoo.names())
def test_prediction_of_trained_models(name) -> None:
    stored = file_memory(zoo.path(name) / "model.onnx").weights
    assert stored == pytest.approx(weight_memory(zoo.load(name)).total, rel=0.01)
