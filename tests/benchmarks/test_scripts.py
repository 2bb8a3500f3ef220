"""Every script of benchmarks/ can be imported, and tells what it does instead of doing it where it is asked."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
#: Modules of the scripts: imported by them, and with nothing to run.
PARTS = {"encoder_network", "encoder_rivals", "record", "spike_gpt_float", "support_layers"}


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a script import its neighbours, and forget them: their names are ordinary words."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").is_relative_to(FOLDER):
            del sys.modules[name]


def _written() -> dict[Path, int]:
    outputs = (*(FOLDER / "results").iterdir(), *FOLDER.parent.glob("docs/*.md"), FOLDER.parent / "README.md")
    return {path: path.stat().st_mtime_ns for path in outputs}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for package in ("onnxruntime", "torch", "snntorch", "spikingjelly", *(["nir"] if "nir" in script.stem else [])):
        pytest.importorskip(package)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.chdir(tmp_path)
    before = _written()
    if script.stem in PARTS:
        assert runpy.run_path(str(script), run_name="__main__")["__doc__"]
        return
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(script), run_name="__main__")
    assert left.value.code == 0
    shown = capsys.readouterr().out
    first = (script.read_text(encoding="utf-8").removeprefix("r").removeprefix('"""')).splitlines()[0]
    assert " ".join(first.removesuffix('"""').split()) in " ".join(shown.split())
    assert _written() == before


@pytest.mark.parametrize("script", ["cli_startup", "signed_spikes", "native_matmul", "file_size"])
def test_an_unknown_option_starts_nothing(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script, "--no-such-option"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    assert left.value.code == 2
    assert "--no-such-option" in capsys.readouterr().err


class TestRecord:
    """The stamp of a result."""

    def test_the_commit_is_dirty_for_what_is_measured_only(self) -> None:
        record = runpy.run_path(str(FOLDER / "record.py"))
        asked: list[tuple[str, ...]] = []

        def git(changed: str) -> None:
            def answer(*arguments: str) -> str:
                asked.append(arguments)
                return changed if arguments[0] == "status" else "v1-3-gabc"

            record["_commit"].__globals__["_git"] = answer

        git("")
        assert record["_commit"]() == "v1-3-gabc"
        git(" M snn_extreme_quant/config.py")
        assert record["_commit"]() == "v1-3-gabc-dirty"
        (status,) = {arguments for arguments in asked if arguments[0] == "status"}
        assert {":!benchmarks/results", ":!docs/*.md", ":!README.md"} <= set(status)

    def test_what_is_not_kept_is_shown_only(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        record = runpy.run_path(str(FOLDER / "record.py"))
        record["write"].__globals__["RESULTS"] = tmp_path / "results"
        record["write"]("figures", {"value": 7}, keep=False)
        assert '"value": 7' in capsys.readouterr().out
        assert not (tmp_path / "results").exists()
        record["write"]("figures", {"value": 7})
        assert '"value": 7' in (tmp_path / "results" / "figures.json").read_text()
