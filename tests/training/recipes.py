"""What recipes of these tests have in common: a task, a teacher, a student, and how a run is read."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tests.tiny_bert import save_task, save_teacher

__all__ = ["HEAD", "TWO_STAGES", "save_recipe", "weights_of"]

#: A distillation; more keys of ``[train]`` and other tables may follow.
HEAD = """
[task]
name = "sst2"
data = "{data}"
max_tokens = 16
[teacher]
path = "{teacher}"
[student]
T = 8
dropout = 0.1
[train]
batch = 16
precision = "no"
calibration = 32
"""
#: In float, then ternary.
TWO_STAGES = (
    HEAD
    + """seed = 3
save_every = 4
[[stage]]
name = "float"
steps = 6
lr = 1e-3
[stage.loss]
hidden = 1.0
scores = 0.1
logits = 1.0
[[stage]]
name = "ternary"
epochs = 1.0
lr = 1e-3
weights = "ternary"
freeze = ["embeddings.words.*"]
[stage.loss]
labels = 1.0
hidden = 0.1
"""
)


def save_recipe(folder: Path, text: str, /, **places: object) -> Path:
    """Save a recipe; its data and teacher are made where ``places`` does not name them."""
    if "data" not in places:
        places["data"] = save_task(folder / "data")
    if "teacher" not in places and "{teacher}" in text:
        places["teacher"] = save_teacher(folder / "teacher")
    path = folder / "tiny.toml"
    path.write_text(text.format(**places), encoding="utf-8")
    return path


def weights_of(folder: Path, name: str = "last") -> dict[str, Tensor]:
    """Return the tensors of a run's model."""
    return load_file(folder / name / "model.safetensors")
