"""The kernels under the address and undefined-behaviour sanitizers, over random shapes and damaged tensors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from snn_extreme_quant.errors import NativeLibraryError
from snn_extreme_quant_native.compilation import compiler, compiler_flags, sources

_SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
_DRIVER = sorted(Path(__file__).with_name("fuzz").glob("*.c"))


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver in ``fuzz`` with the kernels' own sources."""
    folder = tmp_path_factory.mktemp("sanitized")
    try:
        program = compiler()
    except NativeLibraryError as error:
        pytest.skip(str(error))
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    trial = [program, *_SANITIZE, str(folder / "empty.c"), "-o", str(folder / "empty")]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip(f"{program} has no sanitizers")
    objects = []
    for path in (*sources(), *_DRIVER):
        if path.suffix == ".c":
            objects.append(folder / f"{path.stem}.o")
            flags = [flag for flag in compiler_flags(path.name) if flag != "-O3"]
            include = f"-I{sources()[0].parent}"
            subprocess.run([program, *flags, *_SANITIZE, include, "-c", str(path), "-o", str(objects[-1])], check=True)
    made = folder / "fuzz"
    subprocess.run([program, *_SANITIZE, *map(str, objects), "-o", str(made), "-lm"], check=True)
    return made


def _fuzz(fuzzer: Path, instruction_set: str, seed: int, rounds: int) -> None:
    environment = {**os.environ, "SXQ_NATIVE_ISA": instruction_set}
    done = subprocess.run(
        [str(fuzzer), str(seed), str(rounds)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{rounds} rounds")


@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "portable"])
def test_random_shapes_and_damage(fuzzer: Path, instruction_set: str) -> None:
    _fuzz(fuzzer, instruction_set, seed=1, rounds=1000)


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "portable"])
def test_many_random_shapes(fuzzer: Path, instruction_set: str) -> None:
    for seed in range(2, 5):
        _fuzz(fuzzer, instruction_set, seed=seed, rounds=3000)
