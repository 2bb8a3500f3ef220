"""Models named on the command line: ``MODULE:NAME`` or a folder; weights from a checkpoint, and a precision."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snn_extreme_quant.errors import CheckpointError, ConfigError, ModelSourceError
from snn_extreme_quant.registry import suggest

if TYPE_CHECKING:
    from torch import nn

    from snn_extreme_quant.config import PrecisionPlan, WeightConfig

__all__ = ["Checkpoint", "Model", "Plan", "Precision", "build_model", "named_object", "parse_precision"]

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="MODULE:NAME, a function or class that gives the model, or it; or a SpikingBert's folder."
    ),
]
Checkpoint = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Weights: .safetensors, or a state_dict of torch.save.")
]
Precision = Annotated[str | None, typer.Option(metavar="P", help="Quantise with ternary, binary or uniform:BITS.")]
Plan = Annotated[Path | None, typer.Option(metavar="FILE", help="Quantise with a PrecisionPlan in JSON.")]

#: Under which keys training scripts put a state_dict beside other things.
_WRAPPED = ("state_dict", "model_state_dict")


def build_model(source: str, checkpoint: Path | None, precision: str | None, plan: Path | None) -> nn.Module:
    """Return the model that the command line names.

    Raises:
        ModelSourceError: there is no such module or name, or it does not give a model.
        ConfigError: the precision or the plan is none.
        CheckpointError: the weights cannot be read, or are of another model.
    """
    if precision is not None and plan is not None:
        raise ConfigError("Give --precision or --plan, not both.")
    from snn_extreme_quant.config import PrecisionPlan

    config = PrecisionPlan.load(plan) if plan is not None else parse_precision(precision) if precision else None
    model = _made(source)
    if checkpoint is None:
        _quantize(model, config)
    elif checkpoint.suffix == ".safetensors":
        _load_safetensors(model, checkpoint, config)
    else:
        _load_state_dict(model, checkpoint, config)
    return model.eval()


def parse_precision(text: str) -> WeightConfig:
    """Return the precision called ``KIND`` or ``KIND:BITS``.

    Raises:
        ConfigError: there is none.

    Example:
        >>> parse_precision("ternary"), parse_precision("uniform:4")
        (Ternary(per='channel'), Uniform(bits=4, per='channel'))
    """
    from snn_extreme_quant.config import CONFIGS, config_from_dict

    kind, colon, bits = text.partition(":")
    if kind not in CONFIGS:
        raise ConfigError(f"--precision {text}: no precision is called {kind!r}. {suggest(kind, CONFIGS)}")
    if colon and not bits.isdecimal():
        raise ConfigError(f"--precision {text}: write the bits as a number behind the colon, {kind}:4.")
    try:
        return config_from_dict({"kind": kind, **({"bits": int(bits)} if colon else {})})
    except ConfigError as error:
        raise ConfigError(f"--precision {text}: {error}") from error


def _made(source: str) -> nn.Module:
    """Import the module and call what it names."""
    from torch import nn

    if Path(source).is_dir():
        return _from_folder(Path(source))
    found = named_object(source, "a model")
    if not isinstance(found, nn.Module):
        if not callable(found):
            raise ModelSourceError(
                f"{source} is a {type(found).__name__}; name a function that gives the model, or the model."
            )
        found = _guarded(found, f"{source}()")
    if not isinstance(found, nn.Module):
        raise ModelSourceError(f"{source}() gave a {type(found).__name__}; it must give a torch.nn.Module.")
    return found


def named_object(source: str, what: str) -> object:
    """Return what ``MODULE:NAME`` is.

    Args:
        source: as written.
        what: it is to be, for messages.

    Raises:
        ModelSourceError: there is no such module or name.
    """
    where, colon, name = source.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise ModelSourceError(
            f"{source!r} names no {what.partition(' ')[2]}; write MODULE:NAME, such as my_models:build or"
            " folder/my_models.py:build."
        )
    module = _imported(where)
    found: object = getattr(module, name, None)
    if found is None:
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ModelSourceError(f"{where} has no {name!r}. {suggest(name, names)}")
    return found


def _from_folder(folder: Path) -> nn.Module:
    """Load the SpikingBert that ``save_pretrained``, ``sxq train`` or ``sxq pack`` wrote there."""
    from snn_extreme_quant.models import SpikingBert

    try:
        return SpikingBert.from_pretrained(folder)
    except CheckpointError as error:
        raise ModelSourceError(
            f"The folder {folder} holds no SpikingBert: {error} Name a model as MODULE:NAME."
        ) from error


def _imported(where: str) -> ModuleType:
    path = Path(where)
    if path.suffix != ".py":
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # the script `sxq` has its own folder there instead
        named: ModuleType = _guarded(lambda: importlib.import_module(where), f"Importing {where}", where)
        return named
    if not path.is_file():
        raise ModelSourceError(f"There is no file {where}.")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # its neighbours, as when it is run
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) == str(path.resolve()):
        return sys.modules[path.stem]
    module: ModuleType = _guarded(lambda: _from_file(path.resolve()), f"Importing {where}", where)
    return module


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return module


def _guarded(call: Any, what: str, module: str = "") -> Any:
    """Call the user's code; say in a line what it raised, and where."""
    try:
        return call()
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and module and error.name in (module, module.partition(".")[0]):
            raise ModelSourceError(
                f"There is no module {error.name!r} in the current folder or the environment. For a file write its"
                " path, with .py."
            ) from error
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if len(frames) > 1 else ""
        raise ModelSourceError(f"{what} raised {type(error).__name__}: {error}{place}") from error


def _quantize(model: nn.Module, config: WeightConfig | PrecisionPlan | None) -> None:
    from snn_extreme_quant.replace import quantize_

    if config is not None:
        quantize_(model, config)


def _load_safetensors(model: nn.Module, path: Path, config: WeightConfig | PrecisionPlan | None) -> None:
    """Load ours with its precisions, anybody's with those asked for."""
    from snn_extreme_quant.checkpoints import checkpoint_plan, load_checkpoint
    from snn_extreme_quant.layers import IntegerFirst

    try:
        saved = checkpoint_plan(path)
    except CheckpointError:
        saved = None  # weights alone, or no checkpoint at all: load_checkpoint says which
    if saved is None or not saved.rules:
        load_checkpoint(model, path)
        _quantize(model, config)
        return
    if config is not None:
        raise ConfigError(f"{path} says what precision each layer has; leave --precision and --plan out.")
    if not any(isinstance(module, IntegerFirst) for module in model.modules()):
        _quantize(model, saved)
    load_checkpoint(model, path)


def _load_state_dict(model: nn.Module, path: Path, config: WeightConfig | PrecisionPlan | None) -> None:
    """Load before quantising, unless the file holds what only a quantised model has: learned scales."""
    state = _read_state_dict(path)
    learned = config is not None and not set(state) <= set(model.state_dict())
    if learned:
        _quantize(model, config)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not of this model: {error}") from error
    if not learned:
        _quantize(model, config)


def _read_state_dict(path: Path) -> Mapping[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # pickle, zip and torch each have errors of their own for a file that is none of theirs
        raise CheckpointError(
            f"{path} is no state_dict that torch.save wrote, or holds other objects than tensors, which are not loaded;"
            " save model.state_dict(), or use sxq.save_checkpoint."
        ) from error
    for key in _WRAPPED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, not a state_dict; save model.state_dict().")
    return found
