"""Packed checkpoints: each matrix in its own width; those of before, in the next of 4, 8 and 16 bit, still load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from snn_extreme_quant.config import Binary, PrecisionPlan, Uniform
from snn_extreme_quant.errors import CheckpointError
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig
from snn_extreme_quant.quantizers.packing import LAYOUTS, pack, unpack

#: By matrix, its bits and the layout that kept them before.
BITS = {"key": (3, "int4"), "value": (6, "int8"), "receptance": (7, "int8"), "output": (12, "int16")}
IDS = torch.tensor([[1, 7, 2, 19, 4]])


def build() -> SpikeGPT:
    rules: dict[str, Any] = {f"blocks.0.att.{name}": Uniform(each) for name, (each, _) in BITS.items()}
    plan = PrecisionPlan({**rules, "head": Uniform(9)}, default=Binary())
    torch.manual_seed(0)
    return SpikeGPT(SpikeGPTConfig(vocab=20, layers=1, hidden=18, weights=plan)).eval()


def rewritten(path: Path) -> None:
    """Turn a packed file into one of before."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    for layer, bits, before in [
        *((f"blocks.0.att.{name}", *each) for name, each in BITS.items()),
        ("head", 9, "int16"),
    ]:
        columns = tensors[f"{layer}.scale"].shape[0]
        codes = unpack(tensors[f"{layer}.packed"].numpy(), columns, f"int{bits}")
        tensors[f"{layer}.packed"] = torch.from_numpy(pack(codes, before))
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("before", [False, True])
def test_packed_weights_load(tmp_path: Path, before: bool) -> None:
    model = build()
    model.save_pretrained(tmp_path, packed=True)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        for name, (bits, _) in BITS.items():
            width = LAYOUTS[f"int{bits}"].packed_columns(18)
            assert file.get_tensor(f"blocks.0.att.{name}.packed").shape == (18, width)
    if before:
        rewritten(tmp_path / "model.safetensors")
    again = SpikeGPT.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IDS), model(IDS))


def test_codes_of_before_that_are_too_large(tmp_path: Path) -> None:
    """Four bit can hold what three cannot."""
    model = build()
    model.save_pretrained(tmp_path, packed=True)
    path = tmp_path / "model.safetensors"
    rewritten(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    tensors["blocks.0.att.key.packed"] = torch.from_numpy(pack(np.full((18, 18), 7), "int4"))
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'blocks.0.att.key' does not fit .* its codes are larger than Uniform"):
        SpikeGPT.from_pretrained(tmp_path)
