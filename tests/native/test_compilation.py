"""Compiling the library: once, whole or not at all, with errors that say what to do."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from snn_extreme_quant.errors import NativeLibraryError
from snn_extreme_quant_native import build, is_compiled
from snn_extreme_quant_native.compilation import compiler_flags, library_name, sources
from snn_extreme_quant_native.library import NativeLibrary

_MODULE = "snn_extreme_quant_native.compilation"


def test_every_source_forbids_fused_products() -> None:
    assert {p.name for p in sources()} >= {"abi.h", "operators.c", "linear.c", "neuron.c", "kernels_avx512.c"}
    assert all("-ffp-contract=off" in compiler_flags(path.name) for path in sources())


def test_other_sources_have_another_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = library_name()
    shutil.copytree(sources()[0].parent, tmp_path / "src")
    monkeypatch.setattr(f"{_MODULE}._SOURCES", tmp_path / "src")
    assert library_name() == before
    with (tmp_path / "src" / "linear.c").open("a") as file:
        file.write("/* changed */\n")
    assert library_name() != before


def test_a_second_build_finds_the_first(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copy(library.path, tmp_path / library_name())
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build(tmp_path) == tmp_path / library_name()
    with pytest.raises(NativeLibraryError, match="no-such-compiler"):
        build(tmp_path / "empty")


def test_whether_it_is_there_without_compiling(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SXQ_NATIVE_LIBRARY", raising=False)
    monkeypatch.setenv("SXQ_CACHE", str(tmp_path))
    assert not is_compiled()
    shutil.copy(library.path, tmp_path / library_name())
    assert is_compiled()
    monkeypatch.setenv("SXQ_NATIVE_LIBRARY", str(tmp_path / "nowhere.so"))
    assert not is_compiled()


def test_sources_that_do_not_compile(library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "broken.c").write_text("int broken(void) { return missing; }\n")
    monkeypatch.setattr(f"{_MODULE}._SOURCES", tmp_path / "src")
    with pytest.raises(NativeLibraryError, match="missing"):
        build(tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []


def test_a_folder_that_cannot_be_written(library: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NativeLibraryError, match="SXQ_CACHE"):
        build(tmp_path / "file" / "folder")


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_text("nothing")
    with pytest.raises(NativeLibraryError, match="is not the native library"):
        NativeLibrary(tmp_path / "x.so")


def test_only_the_interface_is_exported(library: Any) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("no nm here")
    lines = subprocess.run([nm, "-D", "--defined-only", str(library.path)], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in lines.stdout.splitlines()}
    wanted = {"RegisterCustomOps"} | {
        f"sxq_{name}" for name in ("select", "operator_count", "operator_name", "instruction_set", "copied_bytes")
    }
    assert {name for name in names if not name.startswith("_")} == wanted


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["--folder"], 2), (["a", "b"], 2)])
def test_what_is_no_folder_is_not_made(tmp_path: Path, arguments: list[str], status: int) -> None:
    command = [sys.executable, "-m", "snn_extreme_quant_native", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert "[folder]" in (done.stderr if status else done.stdout)
    assert not list(tmp_path.iterdir())
