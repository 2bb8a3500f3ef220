"""examples/web in Chromium: drawn digits are classified, and each spike that it shows is the one that Python gets."""

from __future__ import annotations

import functools
import http.server
import importlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import snn_extreme_quant as sxq
from snn_extreme_quant.demo.data import over_time, split_digits
from snn_extreme_quant.exported.files import read_model
from tests.runtimes.strokes import DIGITS
from tests.runtimes.tools import PACKAGES as PAGE

FACTS: dict[str, Any] = json.loads((PAGE / "model.json").read_text(encoding="utf-8"))
_DRIVER = Path(__file__).with_name("drive_page.mjs")
_BLOCKED = {"packages": "**/ort.wasm.min.mjs", "wasm": "**/*.wasm", "model": "**/model.onnx"}
#: A vertical line by keyboard: up, pen down, down, pen up.
_LINE = ["Escape", *["ArrowUp"] * 9, " ", *["ArrowDown"] * 18, " ", "ArrowLeft"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page behind Python's own server, as its README says."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(PAGE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture(scope="module")
def found(
    node: str, chromium: str, address: str, once: Callable[[str, Callable[[Path], None]], Path]
) -> dict[str, Any]:
    """What the page shows while it is used."""

    def use(folder: Path) -> None:
        script = {"drawings": DIGITS, "examples": True, "keys": _LINE, "steps": 20, "until": 6, "blocked": _BLOCKED}
        (folder / "script.json").write_text(json.dumps(script), encoding="utf-8")
        command = [node, _DRIVER, PAGE, chromium, address, folder / "script.json", folder / "results.json"]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr

    results: dict[str, Any] = json.loads((once("page", use) / "results.json").read_text(encoding="utf-8"))
    return results


@pytest.fixture(scope="module")
def python() -> Any:
    return sxq.deploy.session(PAGE / "model.onnx", native=False)


def _check(shown: dict[str, Any], python: Any, until: int | None = None) -> list[float]:
    """Every spike of the rasters is Python's for these pixels, and so are scores and answer; returns the scores."""
    image = np.array(shown["pixels"], np.float32).reshape(1, 1, 1, 8, 8) / 16
    layers = python.run(None, {"input": np.repeat(image, shown["steps"], 0)})
    assert len(layers) == len(shown["rasters"])
    for expected, raster in zip(layers, shown["rasters"], strict=True):
        assert (raster["steps"], 1, raster["neurons"]) == expected.shape
        assert np.array_equal(np.array(raster["spikes"]).reshape(expected.shape), expected)
    scores: list[float] = layers[-1][:until].sum((0, 1)).tolist()
    assert shown["scores"] == scores
    return scores


def _pixels(node: str, drawings: list[Any]) -> list[list[int]]:
    """What strokes.js makes of drawings."""
    program = f"import {{ pixelsOf }} from {json.dumps((PAGE / 'strokes.js').as_uri())};"
    program += f"console.log(JSON.stringify({json.dumps(drawings)}.map((strokes) => [...pixelsOf(strokes)])))"
    done = subprocess.run([node, "--input-type=module", "-e", program], capture_output=True, text=True, check=True)
    pixels: list[list[int]] = json.loads(done.stdout)
    return pixels


def test_pixels_of_strokes(node: str) -> None:
    """Where and how large a digit is drawn makes no difference, and the ink is that of scanned digits."""
    moved = [[[[0.125 + x / 4, 0.25 + y / 4] for x, y in stroke] for stroke in strokes] for strokes in DIGITS]
    drawn = _pixels(node, DIGITS)
    assert _pixels(node, moved) == drawn
    for pixels in drawn:
        assert 0 <= min(pixels) <= max(pixels) <= 16
        assert 290 <= sum(pixels) <= 330
        assert any(pixels[:8])
        assert any(pixels[-8:])


def test_pixels_of_very_little(node: str) -> None:
    nothing, dot, line = _pixels(node, [[], [[[0.5, 0.5]]], [[[0.2, 0.5], [0.8, 0.5]]]])
    assert not any(nothing)
    assert sum(dot[row * 8 + column] for row in (3, 4) for column in (3, 4)) > 0.6 * sum(dot) > 0
    assert sum(line[24:40]) > 0.6 * sum(line) > 0


@pytest.mark.parametrize("digit", range(10))
def test_drawn_digit(digit: int, found: dict[str, Any], python: Any) -> None:
    shown = found["drawn"][digit]
    scores = _check(shown, python)
    assert sum(map(sum, (raster["spikes"] for raster in shown["rasters"]))) > 100
    assert shown["answer"] == str(digit) == str(int(np.argmax(scores)))


def test_scanned_digits(found: dict[str, Any], python: Any) -> None:
    assert [shown["answer"] for shown in found["scanned"]] == list("0123456789")
    for shown, image in zip(found["scanned"], FACTS["examples"], strict=True):
        assert shown["pixels"] == image
        _check(shown, python)


def test_keyboard(found: dict[str, Any], python: Any) -> None:
    assert found["keyed"]["answer"] == "1"
    _check(found["keyed"], python)


def test_time_steps(found: dict[str, Any], python: Any) -> None:
    """Another number of steps; then only the first of them counted."""
    assert found["longer"]["steps"] == found["until"]["steps"] == 20
    _check(found["longer"], python)
    _check(found["until"], python, until=6)
    assert found["until"]["scores"] != found["longer"]["scores"]


def test_nothing_drawn(found: dict[str, Any], python: Any) -> None:
    assert found["empty"]["answer"] == "–"
    assert found["empty"]["pixels"] == [0] * 64
    _check(found["empty"], python)


def test_no_errors(found: dict[str, Any]) -> None:
    assert found["problems"] == []


def test_what_cannot_be_loaded_is_said(found: dict[str, Any]) -> None:
    assert "run npm ci" in found["blocked"]["packages"]
    assert "WebAssembly" in found["blocked"]["wasm"]
    assert "make_model.py" in found["blocked"]["model"]


@pytest.fixture
def make_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(PAGE))
    yield importlib.import_module("make_model")
    for name in ("make_model", "network"):
        sys.modules.pop(name, None)


def test_the_committed_model_is_that_of_the_card(make_model: Any, python: Any) -> None:
    read_model(PAGE / "model.onnx")  # whole, and not changed after export
    digits = split_digits()
    spikes = python.run(None, {"input": over_time(digits.test_images, FACTS["steps"]).numpy()})[-1]
    accuracy = float(np.mean(spikes.sum(0).argmax(1) == digits.test_labels.numpy()))
    assert accuracy == pytest.approx(FACTS["accuracy"], abs=1e-6)
    assert FACTS["file_bytes"] == (PAGE / "model.onnx").stat().st_size
    assert make_model.card(FACTS) == (PAGE / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_make_model_writes_what_the_page_needs(make_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    digits = split_digits()
    parts = (digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)
    few = type(digits)(*(part[:160] for part in parts))
    monkeypatch.setattr(make_model, "split_digits", lambda: few)
    make_model.main(tmp_path, quick=True)
    facts = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
    assert facts.keys() == FACTS.keys()
    assert facts["spikes_different"] == 0 < facts["spikes_compared"]
    names = [output.name for output in sxq.deploy.session(tmp_path / "model.onnx").get_outputs()]
    assert names == [f"output_{layer['output']}" for layer in FACTS["layers"]]
