"""The kernels on ARM: compiled with NEON for it, and run in an emulator, where both tools are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from snn_extreme_quant_native.compilation import compiler_flags, sources

_DRIVER = sorted(Path(__file__).with_name("fuzz").glob("*.c"))


def tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here (Debian: {package})")
    return found


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every source, compiled for ARM of 64 bit with the flags of the library."""
    program = tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    folder = tmp_path_factory.mktemp("arm")
    for path in (*sources(), *_DRIVER):
        if path.suffix == ".c":
            flags = [*compiler_flags(path.name, "aarch64"), "-Werror", "-Wall", f"-I{sources()[0].parent}"]
            subprocess.run([program, *flags, "-c", str(path), "-o", str(folder / f"{path.stem}.o")], check=True)
    return folder


def test_the_inner_loops_are_neon(objects: Path) -> None:
    disassembler = tool("aarch64-linux-gnu-objdump", "binutils-aarch64-linux-gnu")
    command = [disassembler, "-d", str(objects / "kernels_portable.o")]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # The carry-save adders: bitwise operations on vector registers.
    assert len(re.findall(r"\t(?:eor|and|orr|bsl|bit|bif)\tv\d+\.16b", text)) > 100


def test_fuzzed_under_an_emulator(objects: Path) -> None:
    emulator = tool("qemu-aarch64", "qemu-user")
    program = tool("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    made = objects / "fuzz"
    subprocess.run([program, "-static", *map(str, objects.glob("*.o")), "-o", str(made), "-lm"], check=True)
    done = subprocess.run([emulator, str(made), "1", "300"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("300 rounds with portable")
