"""A SpikeGPT's file is the model: text, spikes, logits and state, on stock onnxruntime and with native kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import snn_extreme_quant as sxq
from snn_extreme_quant.data import TextTokens
from snn_extreme_quant.deploy import GptFile, Stream, export_gpt, native_status
from snn_extreme_quant.deploy.language.graph import write_gpt
from snn_extreme_quant.deploy.runtime.sessions import open_session
from snn_extreme_quant.errors import ConfigError, ExportError, ModelFileError, NonFiniteWeightError, SampleError
from snn_extreme_quant.exported.files import METADATA_KEY, read_model
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig, SpikeGPTState
from snn_extreme_quant.models.gpt.generation import generate

SIZES: dict[str, Any] = {"vocab": 24, "layers": 2, "hidden": 21, "ffn": 30}
PLAN = sxq.PrecisionPlan({"blocks.0.*": sxq.Uniform(4), "blocks.*": sxq.Uniform(8), "head": sxq.Ternary()})
GROUPS = sxq.PrecisionPlan({"blocks.*": sxq.Uniform(4, per="group", group_size=8), "head": sxq.Uniform(16)})
MODELS: dict[str, dict[str, Any]] = {
    "ternary": {"weights": "ternary"},
    "binary, tied, tau 3": {"weights": "binary", "tied": True, "tau": 3.0},
    "float": {},
    "plan": {"weights": PLAN},
    "groups": {"weights": GROUPS, "layers": 1},
    "spikes": {"inputs": "spikes", "weights": "ternary"},
    "rwkv, ternary": {"spiking": False, "weights": "ternary", "layers": 1},
}
NATIVE = [False, *([True] if native_status().available else [])]


def build(**options: Any) -> SpikeGPT:
    torch.manual_seed(0)
    model = SpikeGPT(SpikeGPTConfig(**{**SIZES, **options}))
    with torch.no_grad():
        for block in model.blocks:  # as after training, every neuron has something to do
            block.att.value.weight.mul_(3.0)
            block.att.output.weight.mul_(2.0)
            block.ffn.value.weight.mul_(3.0)
    return model


def prompts(batch: int = 2, length: int = 5) -> torch.Tensor:
    return torch.randint(SIZES["vocab"], (batch, length), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> tuple[SpikeGPT, Path]:
    path = tmp_path_factory.mktemp("gpt") / "gpt.onnx"
    model = build(weights="ternary")
    export_gpt(model, path, tokens=TextTokens.of("characters", "abcdefghijklmnopqrstuvw"))
    return model, path


@pytest.mark.parametrize("name", MODELS)
def test_the_file_is_the_model(tmp_path: Path, name: str) -> None:
    """Each form has a case of its own by turns; the export itself compares both forms' graphs with torch."""
    model, form = build(**MODELS[name]), ("sequence", "streaming")[list(MODELS).index(name) % 2]
    report = export_gpt(model, tmp_path / "gpt.onnx", form=form)
    assert report.exact == model.config.spiking
    for native in NATIVE:
        found = sxq.verify(model, tmp_path / "gpt.onnx", prompts(), tokens=12, native=native)
        assert found.ok, str(found)
        assert found.text is not None
        assert found.text.tokens == 24
        assert found.text.values > 1000
        assert (found.text.whole_values > 0) == (form == "sequence")
        assert (found.spikes_compared > 0) == model.config.spiking
        assert "native" in found.runtime or not native
    assert model.training  # as it was


@pytest.mark.slow
@pytest.mark.parametrize("form", ["sequence", "streaming"])
@pytest.mark.parametrize("name", MODELS)
def test_a_thousand_tokens(tmp_path: Path, name: str, form: Any) -> None:
    model = build(**MODELS[name])
    export_gpt(model, tmp_path / "gpt.onnx", form=form, logits="all" if form == "sequence" else "last")
    for native in NATIVE:
        assert sxq.verify(model, tmp_path / "gpt.onnx", prompts(1), tokens=1000, native=native).ok


@pytest.mark.parametrize("profile", ["reference", "integer"])
def test_a_thousand_tokens_of_a_tiny_model(tmp_path: Path, profile: Any) -> None:
    """The file writes 1,000 tokens one by one, torch reads them at once: the same tokens, logits, state and spikes."""
    model, path = build(weights="ternary", hidden=16, ffn=32, profile=profile).eval(), tmp_path / "gpt.onnx"
    export_gpt(model, path, logits="all")
    for native in NATIVE:
        file = GptFile(path, native=native)
        assert ("native" in file.runtime) == native
        text = list(file.generate([1, 2, 3], 1000, 0.8, 0.9, seed=4))
        assert len(set(text)) > 10
        ids = torch.tensor([[1, 2, 3, *text]])
        with torch.no_grad():
            _, state = model.run(ids[:, :-1])  # the last token was not read
        for name, value in state.tensors.items():
            assert np.array_equal(file.state[name], value.numpy())
        found = sxq.verify(model, path, ids, tokens=1, native=native)
        assert found.ok, str(found)
        assert found.text is not None
        assert found.text.values > 1003 * model.config.vocab
        assert found.spikes_compared == 1003 * 4 * 16
        assert 0.01 < found.firing_rate < 0.99
    assert list(generate(model, [1, 2, 3], 60, 0.8, 0.9, seed=4)) == text[:60]


def test_the_file_alone_writes_the_same_text(ternary: tuple[SpikeGPT, Path]) -> None:
    model, path = ternary
    file = GptFile(path, native=False)
    assert file.tokens is not None
    ids = file.tokens.encode("abcab").tolist()
    wanted = list(generate(model.eval(), ids, 25, 0.8, 0.9, 3))
    assert list(file.generate(ids, 25, 0.8, 0.9, 3)) == wanted
    assert len(set(wanted)) > 3
    assert file.tokens.decode(wanted)


def test_states_go_from_file_to_model_and_back(ternary: tuple[SpikeGPT, Path]) -> None:
    model, path = ternary
    ids = prompts(2, 9)
    file = GptFile(path, native=False)
    file.run(ids[:, :4])
    state = SpikeGPTState({name: torch.from_numpy(value) for name, value in file.state.items()})
    with torch.no_grad():
        wanted, after = model.eval().run(ids[:, 4:], state)
    other = GptFile(path, native=False)
    other.state = {}
    other.state = file.state
    assert np.array_equal(other.run(ids[:, 4:].numpy()), wanted[:, -1].numpy())
    for name, value in after.tensors.items():
        assert np.array_equal(other.state[name], value.numpy())


def test_optimisations_change_nothing(ternary: tuple[SpikeGPT, Path]) -> None:
    """onnxruntime would make one division of 1 / x and a product, were they not kept apart."""
    _, path = ternary
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    file = GptFile(path, native=False)
    logits = file.run(prompts())
    zeros = {name: np.zeros_like(value) for name, value in file.state.items()}
    assert np.array_equal(plain.run(["logits"], {"ids": prompts().numpy(), **zeros})[0], logits)


def test_kernels_compute_every_node(ternary: tuple[SpikeGPT, Path]) -> None:
    if not native_status().available:
        pytest.skip(native_status().reason)
    opened = open_session(ternary[1], native=True)
    number, total = (int(word) for word in opened.detail.split(" compute ")[1].split(" nodes")[0].split(" of "))
    assert number == total > 20


def test_a_difference_is_found_and_named(ternary: tuple[SpikeGPT, Path]) -> None:
    _, path = ternary
    changed = build(weights="ternary")
    with torch.no_grad():
        changed.blocks[1].ffn.value.weight[0].neg_()
        changed.blocks[1].att.time_first.add_(0.5)
    report = sxq.verify(changed, path, prompts(), tokens=8)
    assert not report.ok
    assert report.text is not None
    assert report.text.different_values > 0
    assert report.text.first.startswith("token ")
    assert "first token" in str(report)


def test_weights_have_their_own_width(tmp_path: Path) -> None:
    """The embedding's signs are a bit an entry, whatever its precision; -0.0 is negative."""
    model = build(weights=sxq.PrecisionPlan({"head": sxq.Uniform(8), "blocks.*": sxq.Ternary()}))
    with torch.no_grad():
        model.emb.weight[3, :2] = torch.tensor([0.0, -0.0])
    report = export_gpt(model, tmp_path / "a.onnx", ternary_packing="1.6bit")
    operators = {layer.name: layer.operator for layer in report.layers}
    assert operators["emb"] == "BinaryEmbedding"
    assert operators["head"] == "Int8LinearRounded"
    assert operators["blocks.0.att.key"] == "Ternary5LinearRounded"
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "a.onnx").graph.initializer
    }
    assert stored["emb.packed"].shape == (24, 3)
    assert stored["emb.packed"][3, 0] & 3 == 1
    assert stored["blocks.0.att.key.packed"].shape == (21, 5)
    assert sxq.verify(model, tmp_path / "a.onnx", torch.tensor([[3]]), tokens=3).ok


def test_the_metadata(ternary: tuple[SpikeGPT, Path]) -> None:
    model, path = ternary
    proto, facts = read_model(path)
    assert facts["language"]["config"] == model.config.to_dict()
    assert [(s["name"], s["shape"]) for s in facts["states"]][:1] == [("att_before", [2, "B", 21])]
    assert proto.ir_version == 8
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": 18, "snn.extreme_quant": 1}
    assert [value.name for value in proto.graph.output][:2] == ["logits", "att_before.next"]


def test_streams_run_streaming_files(tmp_path: Path) -> None:
    model = build(weights="ternary", layers=1)
    export_gpt(model, tmp_path / "gpt.onnx", form="streaming")
    stream, state = Stream(tmp_path / "gpt.onnx", native=False), model.eval().initial_state(2)
    for token in prompts().T:
        found = stream.step(token)["logits"]
        with torch.no_grad():
            wanted, state = model.step(token, state)
        assert np.array_equal(found, wanted.numpy())


def test_a_graph_that_is_not_the_model_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(model: SpikeGPT, *rest: Any) -> Any:
        changed = build(weights="ternary")
        with torch.no_grad():
            changed.ln_out.bias.add_(0.25)
        return write_gpt(changed.eval(), *rest)

    monkeypatch.setattr("snn_extreme_quant.deploy.language.export.write_gpt", other)
    with pytest.raises(ExportError, match="'logits' differs"):
        export_gpt(build(weights="ternary"), tmp_path / "gpt.onnx")
    assert not (tmp_path / "gpt.onnx").exists()


def test_what_is_refused(tmp_path: Path, ternary: tuple[SpikeGPT, Path]) -> None:
    model, path = ternary
    out = tmp_path / "gpt.onnx"
    with pytest.raises(ExportError, match="24 tokens, the tokenizer 256"):
        export_gpt(model, out, tokens=TextTokens.of("bytes"))
    with pytest.raises(ExportError, match="form='counts'"):
        export_gpt(model, out, form="counts")  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="logits='all'"):
        export_gpt(model, out, form="streaming", logits="all")
    with pytest.raises(ExportError, match="leave the other options out"):
        sxq.export_onnx(model, None, out, input="spikes")
    with pytest.raises(ExportError, match="one with profile='integer'"):
        sxq.export_onnx(model, None, out, integer=True)
    broken = build()
    with torch.no_grad():
        broken.head.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteWeightError, match=r"head\.weight"):
        sxq.export_onnx(broken, None, out)
    assert not out.exists()
    file = GptFile(path, native=False)
    with pytest.raises(SampleError, match="The token 24 is not one of the file's 24"):
        file.run([[24]])
    with pytest.raises(SampleError, match=r"\(B, L\)"):
        file.run([1, 2])
    file.run([[1]])
    with pytest.raises(SampleError, match="call reset"):
        file.run([[1], [2]])
    with pytest.raises(SampleError, match="of another model"):
        file.state = {"v": np.zeros((1, 1, 1), np.float32)}
    with pytest.raises(SampleError, match="prompt is empty"):
        file.generate([], 3)
    with pytest.raises(SampleError, match=r"tokens\.encode"):
        next(file.generate("abc", 3))  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match="of another model"):
        sxq.verify(build(hidden=22), path, prompts())
    with pytest.raises(ModelFileError, match="of a SpikeGPT"):
        sxq.verify(torch.nn.Linear(2, 2), path, prompts())
    with pytest.raises(ConfigError, match="tokens=0"):
        sxq.verify(model, path, prompts(), tokens=0)
    with pytest.raises(SampleError, match="token ids"):
        sxq.verify(model, path, torch.zeros(2, 3))


def test_damaged_metadata_is_said(tmp_path: Path, ternary: tuple[SpikeGPT, Path]) -> None:
    from snn_extreme_quant.exported.files import seal

    proto = onnx.load(ternary[1])
    (entry,) = (entry for entry in proto.metadata_props if entry.key == METADATA_KEY)
    kept = [(e.key, e.value) for e in proto.metadata_props if e.key == METADATA_KEY]
    facts = json.loads(kept[0][1])
    facts["language"]["tokens"] = {"kind": "words"}
    entry.value = json.dumps(facts)
    del proto.metadata_props[1:]
    (tmp_path / "gpt.onnx").write_bytes(seal(proto))
    with pytest.raises(ModelFileError, match="damaged metadata"):
        GptFile(tmp_path / "gpt.onnx")


def test_wrong_arguments_of_a_file(ternary: tuple[SpikeGPT, Path]) -> None:
    file = GptFile(ternary[1], native=False)
    with pytest.raises(SampleError, match="as many of each text"):
        file.run([[1], [1, 2]])
    file.run([[1, 2, 3]])
    state = file.state
    for wrong, words in (
        (None, "NoneType"),
        ("abc", "str"),
        ({**state, "numerator": state["numerator"] * np.nan}, "NaN"),
    ):
        with pytest.raises(SampleError, match=words):
            file.state = wrong
    for options, words in (({"seed": -1}, "seed"), ({"count": "a"}, "count"), ({"temperature": "x"}, "temperature")):
        with pytest.raises(ConfigError, match=words):
            file.generate([1], **{"count": 2, **options})
    with pytest.raises(SampleError, match="got str"):
        file.generate("ab", 2)  # type: ignore[arg-type]
    assert all(np.array_equal(value, state[name]) for name, value in file.state.items())
