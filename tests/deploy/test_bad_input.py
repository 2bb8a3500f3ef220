"""What a user can do wrong: an error of our own type that names the layer or file and the remedy, and no half file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import snntorch as snn
import torch
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

import snn_extreme_quant as sxq
from snn_extreme_quant import errors


def network() -> nn.Sequential:
    """A small quantised network, called step by step."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 5), snn.Leaky(0.5, init_hidden=True), nn.Linear(5, 3), snn.Leaky(0.5, init_hidden=True)
    )
    sxq.quantize_(model, sxq.Ternary())
    return model


SAMPLE = torch.ones(4, 2, 6)


@pytest.fixture(scope="module")
def exported_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    sxq.export_onnx(network(), SAMPLE, path)
    return path.read_bytes()


@pytest.fixture
def exported(exported_bytes: bytes, tmp_path: Path) -> tuple[nn.Module, Path]:
    """The network and its file, for each test its own to spoil."""
    (tmp_path / "net.onnx").write_bytes(exported_bytes)
    return network(), tmp_path / "net.onnx"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_weight(value: float, tmp_path: Path) -> None:
    model = network()
    with torch.no_grad():
        model[2].weight[0, 0] = value
    with pytest.raises(errors.NonFiniteWeightError, match=r"'2\.weight'.*checkpoint"):
        sxq.export_onnx(model, SAMPLE, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_empty_model(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModelError, match="empty"):
        sxq.export_onnx(nn.Sequential(), SAMPLE, tmp_path / "net.onnx")


def test_not_a_module(tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModelError, match=r"torch\.nn\.Module"):
        sxq.export_onnx("net", SAMPLE, tmp_path / "net.onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("neuron", "names"),
    [
        (snn.SLSTM(5, 5, init_hidden=True), "Layer '1'.*SLSTM.*RLeaky"),
        (snn.Leaky(0.5, inhibition=False, init_hidden=True, state_quant=torch.round), "Layer '1'.*state_quant"),
        (sj_neuron.KLIFNode(), "Layer '1'.*KLIFNode.*ParametricLIFNode"),
    ],
)
def test_unsupported_neuron(neuron: nn.Module, names: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), neuron)
    sxq.quantize_(model, sxq.Ternary())
    with pytest.raises(errors.UnsupportedNeuronError, match=names):
        sxq.export_onnx(model, SAMPLE, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_hook_that_changes_shapes(tmp_path: Path) -> None:
    model = network()
    model[1].register_forward_hook(lambda _m, _a, output: output[..., :3])
    with pytest.raises(errors.SampleError, match=r"layer '2'.*hooks on '1'"):
        sxq.export_onnx(model, SAMPLE, tmp_path / "net.onnx")


def test_hook_that_keeps_the_model_whole_is_exported(tmp_path: Path) -> None:
    model = network()
    model[1].register_forward_hook(lambda _m, _a, output: output.flip(-1))
    sxq.export_onnx(model, SAMPLE, tmp_path / "net.onnx", input="spikes")
    assert sxq.verify(model, tmp_path / "net.onnx", SAMPLE).spikes_different == 0


@pytest.mark.parametrize(
    ("sample", "names"),
    [
        (torch.ones(4, 2, 7), r"\(4, 2, 7\).*layer '0'"),
        (torch.ones(6), r"\(6,\)"),
        (torch.zeros(0, 2, 6), "at least one time step"),
        (torch.full((4, 2, 6), float("nan")), "NaN"),
        ("text", "not a tensor"),
    ],
)
def test_wrong_sample(sample: Any, names: str, tmp_path: Path) -> None:
    with pytest.raises(errors.SampleError, match=names):
        sxq.export_onnx(network(), sample, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_sample_that_breaks_the_promise_of_spikes(tmp_path: Path) -> None:
    with pytest.raises(errors.SampleError, match="input='spikes'"):
        sxq.export_onnx(network(), SAMPLE * 0.5, tmp_path / "net.onnx", input="spikes")


def test_numpy_sample(tmp_path: Path) -> None:
    sxq.export_onnx(network(), np.ones((4, 2, 6)), tmp_path / "net.onnx")


@pytest.mark.parametrize(("path", "names"), [("missing/net.onnx", "missing.*create"), (".", "directory")])
def test_path_that_cannot_be_written(path: str, names: str, tmp_path: Path) -> None:
    with pytest.raises(errors.OutputPathError, match=names):
        sxq.export_onnx(network(), SAMPLE, tmp_path / path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(errors.OutputPathError, match="cannot be written"):
        sxq.export_onnx(network(), SAMPLE, tmp_path / "net.onnx")


def test_failed_write_leaves_the_old_file(exported: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = exported
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(errors.OutputPathError, match="No space left"):
        sxq.export_onnx(model, SAMPLE, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["net.onnx"]


def test_state_outside_the_neurons(tmp_path: Path) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(6, 5), snn.Leaky(0.5, threshold=0.1, init_hidden=True)
            self.trace: Any = 0.0

        def forward(self, x: Tensor) -> Tensor:
            self.trace = self.trace + x.mean()
            return self.lif(self.fc(x) + self.trace)  # type: ignore[no-any-return]

    model = Counter()
    sxq.quantize_(model, sxq.Ternary())
    with pytest.raises(errors.SxqError, match="Counter"):
        sxq.export_onnx(model, torch.rand(4, 2, 6), tmp_path / "net.onnx")


# Verifying ----------------------------------------------------------------------------------------------------------


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelFileError, match=r"none\.onnx cannot be read"):
        sxq.verify(network(), tmp_path / "none.onnx", SAMPLE)


@pytest.mark.parametrize("kept", [0, 1, 10, 0.3, 0.5, 0.9, 0.999])
def test_truncated_file(exported: tuple[nn.Module, Path], kept: float) -> None:
    model, path = exported
    data = path.read_bytes()
    path.write_bytes(data[: int(kept if kept >= 1 else kept * len(data))])
    with pytest.raises(errors.ModelFileError, match=r"net\.onnx"):
        sxq.verify(model, path, SAMPLE)


def test_text_file(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    path.write_text("This is not a model.")
    with pytest.raises(errors.ModelFileError, match=r"net\.onnx"):
        sxq.verify(model, path, SAMPLE)


def test_every_flipped_byte_is_noticed(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    data = path.read_bytes()
    for position in range(0, len(data), max(1, len(data) // 97)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(errors.ModelFileError, match=r"net\.onnx"):
            sxq.verify(model, path, SAMPLE)


def test_edited_weights_are_refused_or_located(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    file = onnx.load(path)
    packed = next(i for i in file.graph.initializer if i.name == "0.packed")
    packed.raw_data = bytes(0b10101010 - b for b in packed.raw_data)  # each code times -1
    onnx.save(file, path)
    with pytest.raises(errors.ModelEditedError, match="export it again"):
        sxq.verify(model, path, SAMPLE)
    report = sxq.verify(model, path, torch.rand(4, 2, 6) * 9, allow_edited=True)
    assert report.spikes_different > 0
    assert not report.ok
    assert report.first_difference is not None
    assert report.first_difference.layer == "1"
    assert "first difference: layer '1', step" in str(report)


def test_foreign_onnx_file(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "g", [], [])
    onnx.save(onnx.helper.make_model(graph, producer_name="somebody"), tmp_path / "net.onnx")
    with pytest.raises(errors.ModelFileError, match=r"not written by sxq\.export_onnx"):
        sxq.verify(network(), tmp_path / "net.onnx", SAMPLE)


def test_file_of_another_model(exported: tuple[nn.Module, Path]) -> None:
    _, path = exported
    other = nn.Sequential(nn.Linear(6, 9), nn.Identity(), snn.Leaky(0.5, init_hidden=True))
    with pytest.raises(errors.ModelFileError, match="another model"):
        sxq.verify(other, path, SAMPLE)
    wider = nn.Sequential(
        nn.Linear(6, 9), snn.Leaky(0.5, init_hidden=True), nn.Linear(9, 3), snn.Leaky(0.5, init_hidden=True)
    )
    with pytest.raises(errors.ModelFileError, match="another model"):
        sxq.verify(wider, path, SAMPLE)


def test_model_trained_on_after_export(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    with torch.no_grad():
        model[0].weight.neg_()
    report = sxq.verify(model, path, torch.rand(4, 2, 6) * 9)
    assert report.spikes_different > 0


@pytest.mark.parametrize("inputs", [torch.ones(4, 2, 7), torch.ones(3), [], 7])
def test_verify_with_wrong_input(exported: tuple[nn.Module, Path], inputs: Any) -> None:
    model, path = exported
    with pytest.raises(errors.SampleError):
        sxq.verify(model, path, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_model_that_is_not_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedModelError, match=r"'0\.weight' is torch\..*model\.float\(\)"):
        sxq.export_onnx(network().to(dtype), SAMPLE.to(dtype), tmp_path / "net.onnx")


def test_path_of_another_type() -> None:
    with pytest.raises(errors.OutputPathError, match="int"):
        sxq.export_onnx(network(), SAMPLE, 3)  # type: ignore[arg-type]


def test_data_dependent_forward_is_refused_quietly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else self.fc(-x)  # type: ignore[no-any-return]

    with pytest.raises(errors.UnsupportedModelError, match=r"Branch.*Data-dependent"):
        sxq.export_onnx(Branch(), SAMPLE, tmp_path / "net.onnx")
    assert capsys.readouterr().out == ""


def test_model_that_grew_after_export(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    grown = nn.Sequential(*model, nn.Linear(3, 3), snn.Leaky(0.5, init_hidden=True))
    with pytest.raises(errors.ModelFileError, match="'5', the file has not"):
        sxq.verify(grown, path, SAMPLE)


def test_outputs_that_differ_are_not_ok(tmp_path: Path) -> None:
    model = nn.Sequential(*network(), nn.Linear(3, 2))
    sxq.export_onnx(model, SAMPLE, tmp_path / "net.onnx", input="spikes")
    assert sxq.verify(model, tmp_path / "net.onnx", SAMPLE).ok
    with torch.no_grad():
        model[4].bias.add_(100)
    report = sxq.verify(model, tmp_path / "net.onnx", SAMPLE)
    assert report.spikes_different == 0
    assert not report.ok
    model[4].register_forward_hook(lambda _m, _a, output: output * float("nan"))
    report = sxq.verify(model, tmp_path / "net.onnx", SAMPLE)
    assert report.output_difference == float("inf")
    assert not report.ok
    model[4].register_forward_hook(lambda _m, _a, output: (output, output))
    with pytest.raises(errors.ModelFileError, match="outputs"):
        sxq.verify(model, tmp_path / "net.onnx", SAMPLE)


@pytest.mark.parametrize("facts", ["{}", "[]", '{"layers": []}', "no json"])
def test_damaged_metadata(exported: tuple[nn.Module, Path], facts: str) -> None:
    model, path = exported
    file = onnx.load(path)
    next(e for e in file.metadata_props if e.key == "snn_extreme_quant").value = facts
    onnx.save(file, path)
    with pytest.raises(errors.ModelFileError, match="damaged metadata"):
        sxq.verify(model, path, SAMPLE, allow_edited=True)


def test_not_finite_neuron_parameter(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), snn.Leaky(0.5, threshold=float("nan"), init_hidden=True))
    with pytest.raises(errors.NonFiniteWeightError, match="threshold of '1'"):
        sxq.export_onnx(model, SAMPLE, tmp_path / "net.onnx")


@pytest.mark.parametrize("path", ["/dev/null", "x" * 300 + ".onnx"])
def test_path_that_is_no_file(path: str) -> None:
    with pytest.raises(errors.OutputPathError):
        sxq.export_onnx(network(), SAMPLE, path)


def test_nothing_compared_is_not_ok(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    assert not sxq.export_onnx(model, SAMPLE, tmp_path / "net.onnx").exact
    assert not sxq.verify(model, tmp_path / "net.onnx", SAMPLE).ok


def test_verify_with_its_arguments_in_the_wrong_order(exported: tuple[nn.Module, Path]) -> None:
    model, path = exported
    with pytest.raises(errors.ConfigError, match=r"the model is a .*Path\. The model comes first"):
        sxq.verify(path, model, SAMPLE)  # type: ignore[arg-type]
    with pytest.raises(errors.ConfigError, match="the path is a Tensor"):
        sxq.verify(model, SAMPLE, path)  # type: ignore[arg-type]


@pytest.mark.parametrize("native", ["yes", 1, None])
def test_verify_takes_what_a_session_takes_for_native(native: Any, exported: tuple[nn.Module, Path]) -> None:
    with pytest.raises(errors.ConfigError, match="native="):
        sxq.verify(*exported, SAMPLE, native=native)


def test_verify_does_not_say_that_kernels_ran_where_none_did(
    exported: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SXQ_NATIVE_LIBRARY", str(tmp_path / "missing.so"))
    found = sxq.verify(*exported, SAMPLE, native="auto")
    assert found.ok
    assert "native" not in found.verdict
    with pytest.raises(errors.NativeLibraryError, match="SXQ_NATIVE_LIBRARY names it") as raised:
        sxq.verify(*exported, SAMPLE, native=True)
    assert "made anew" not in str(raised.value)


def test_verify_takes_what_run_file_takes(exported: tuple[nn.Module, Path]) -> None:
    compared = 4 * 2 * (5 + 3)
    for same in (SAMPLE.bool(), SAMPLE.int().numpy(), SAMPLE.numpy().astype(np.float64), SAMPLE.tolist()):
        found = sxq.verify(*exported, same)
        assert (found.ok, found.spikes_compared) == (True, compared)
    assert sxq.verify(*exported, [SAMPLE, (SAMPLE, "label")]).spikes_compared == 2 * compared
    with pytest.raises(errors.SampleError, match="not a tensor or an array"):
        sxq.verify(*exported, [[1.0, 2.0], [3.0]])
    with pytest.raises(errors.SampleError, match=r"got \(6,\)"):
        sxq.verify(*exported, [1.0] * 6)


def test_the_run_of_a_file_is_shown_without_its_values(exported: tuple[nn.Module, Path]) -> None:
    shown = repr(sxq.deploy.run_file(exported[1], SAMPLE.numpy(), spikes=True))
    assert "outputs={'output': float32 (4, 2, 3)}" in shown
    assert "'1': float32 (4, 2, 5)" in shown
    assert "array" not in shown
