"""Writes docs/support.md from the plugins' registries; a test checks that it fits, and that no class is forgotten.

What a neuron's row says of its options is tried, not claimed: each option of the constructor is set, and the neuron
read. The other layers' rows are in `support_layers.py`.

Usage: python benchmarks/support_table.py
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import spikingjelly.activation_based.layer  # noqa: F401 - the plugin names its layers once they are imported
import torch
from record import parser
from snntorch import surrogate as snn_surrogate
from spikingjelly.activation_based import surrogate as sj_surrogate
from support_layers import SNNTORCH, SPIKINGJELLY, TORCH
from torch import nn

import snn_extreme_quant_snntorch
import snn_extreme_quant_spikingjelly
from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.replace.targets import TORCH_LAYERS, target_of
from snn_extreme_quant_snntorch.layers import INNER_LAYERS

PAGE = Path(__file__).parents[1] / "docs" / "support.md"

Options = Mapping[str, Any]

_VECTOR = torch.tensor([0.5, 0.25, 0.75, 0.125])
#: What each neuron cannot be built without.
_NEURON_ARGUMENTS: dict[str, Options] = {
    "Alpha": {"alpha": 0.9, "beta": 0.8},
    "DeltaLeaky": {"beta": 0.5},
    "Lapicque": {"beta": 0.5},
    "Leaky": {"beta": 0.5},
    "RLeaky": {"beta": 0.5, "linear_features": 4},
    "RSynaptic": {"alpha": 0.5, "beta": 0.5, "linear_features": 4},
    "Synaptic": {"alpha": 0.5, "beta": 0.5},
    "SimpleLIFNode": {"tau": 2.0, "decay_input": True},
}


def _values(name: str, *values: Any, **others: Any) -> dict[str, Options]:
    """Return what to try for an option: a label for each value, and the arguments to set."""
    return {f"{name}={value!r}": {name: value, **others} for value in values}


_ONE_TO_ONE = {"all_to_all": False, "linear_features": None}
#: What is tried for each option of snnTorch's neurons. A label and the arguments; options that are numbers are tried
#: with a vector, one number for each neuron.
_SNNTORCH_OPTIONS: dict[str, dict[str, Options]] = {
    **{name: {f"{name}=vector": {name: _VECTOR}} for name in ("beta", "threshold", "delta_threshold")},
    "alpha": {"alpha=vector": {"alpha": _VECTOR + 0.9}},
    **{name: _values(name, True) for name in ("surrogate_disable", "init_hidden", "output", "inhibition")},
    **{
        f"learn_{name}": _values(f"learn_{name}", True, **{name: torch.tensor(0.95 if name == "alpha" else 0.5)})
        for name in ("alpha", "beta", "threshold")
    },
    "learn_graded_spikes_factor": _values("learn_graded_spikes_factor", True),
    "learn_recurrent": _values("learn_recurrent", False),
    "spike_grad": {"spike_grad": {"spike_grad": snn_surrogate.fast_sigmoid()}},
    "reset_mechanism": _values("reset_mechanism", "subtract", "zero", "none"),
    "reset_delay": _values("reset_delay", False),
    "state_quant": {"state_quant": {"state_quant": torch.round}},
    "graded_spikes_factor": _values("graded_spikes_factor", 2.0),
    "R": _values("R", 2.0),
    "C": _values("C", 2.0),
    "time_step": _values("time_step", 0.5),
    "V": {"V=vector": {"V": _VECTOR, **_ONE_TO_ONE}},
    "all_to_all": {"all_to_all=False": _ONE_TO_ONE},
    "linear_features": _values("linear_features", 8),
    "conv2d_channels": {"conv2d_channels": {"conv2d_channels": 2, "kernel_size": 3, "linear_features": None}},
    "kernel_size": {"kernel_size": {"conv2d_channels": 2, "kernel_size": (3, 1), "linear_features": None}},
}
_SPIKINGJELLY_OPTIONS: dict[str, dict[str, Options]] = {
    **{name: _values(name, 1.5) for name in ("tau", "init_tau")},
    **{name: _values(name, 0.625) for name in ("v_threshold", "c_decay", "v_decay")},
    "v_reset": _values("v_reset", None, 0.0, 0.25),
    "decay_input": _values("decay_input", False),
    "surrogate_function": {
        "surrogate_function": {"surrogate_function": sj_surrogate.ATan()},
        "surrogate_function(spiking=False)": {"surrogate_function": sj_surrogate.ATan(spiking=False)},
    },
    "detach_reset": _values("detach_reset", True),
    "step_mode": _values("step_mode", "s", "m"),
    "store_v_seq": _values("store_v_seq", True),
}
#: The one neuron with surrogates of its own.
_COUNTS = {"surrogate_function=MultiLevelSpikeCount": {"surrogate_function": sj_surrogate.MultiLevelSpikeCount(8)}}


def _parameters(cls: type) -> Iterator[str]:
    """Name the options of a constructor, with those that it hands on."""
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from _parameters(cls.__mro__[1])
        elif name != "self" and parameter.kind is not parameter.VAR_POSITIONAL:
            yield name


def _try(cls: type[nn.Module], read: Callable[[nn.Module], Any], options: Options) -> str:
    """Return "read", "refused", or "fails" where the framework itself cannot build the neuron."""
    try:
        with warnings.catch_warnings(action="ignore"):  # snnTorch calls inhibition unstable
            module = cls(**{**_NEURON_ARGUMENTS.get(cls.__name__, {}), **options})
    except (AssertionError, RuntimeError, TypeError, ValueError):
        return "fails"
    try:
        read(module)
    except UnsupportedNeuronError:
        return "refused"
    return "read"


def _options(cls: type[nn.Module], plugin: Any, table: Mapping[str, Mapping[str, Options]]) -> str:
    """Say which options of a neuron are read, which are refused, and which the framework itself fails on."""
    outcomes: dict[str, list[str]] = {"read": [], "refused": [], "fails": []}
    for name in dict.fromkeys(_parameters(cls)):
        trials = table[name]  # a KeyError is an option that nobody has looked at yet
        if cls.__name__ == "ILIFNode" and name == "surrogate_function":
            trials = _COUNTS
        results = {label: _try(cls, plugin.read_neuron, options) for label, options in trials.items()}
        if set(results.values()) == {"read"}:
            outcomes["read"].append(f"`{name}`")
            continue
        for label, result in results.items():
            outcomes[result].append(f"`{label}`")
    text = ", ".join(outcomes["read"])
    if outcomes["refused"]:
        text += f"; refused: {', '.join(outcomes['refused'])}"
    if outcomes["fails"]:
        text += f"; not built by the framework: {', '.join(outcomes['fails'])}"
    return text


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def neurons(plugin: Any, table: Mapping[str, Mapping[str, Options]]) -> str:
    """Return a plugin's table of neurons: first those that are read, then the others with the reason."""
    rows = []
    for cls in sorted(plugin.neuron_classes(), key=lambda c: c.__name__):
        reading = plugin.read_neuron(cls(**_NEURON_ARGUMENTS.get(cls.__name__, {})))
        rows.append([f"`{cls.__name__}`", "yes", f"`{reading.spec.operator}`", _options(cls, plugin, table)])
    for name, reason in sorted(plugin.unreadable_neurons().items()):
        rows.append([f"`{name}`", "no", "", reason])
    return _table(["neuron", "read", "by default", "options; or why not"], rows)


#: What each layer is built with, and what is tried of its options.
_LAYER_ARGUMENTS: dict[str, tuple[int, ...]] = {"Linear": (4, 4), "Embedding": (4, 4)}
_LAYER_OPTIONS: dict[str, dict[str, Options]] = {
    "bias": _values("bias", False),
    "stride": _values("stride", 2),
    "padding": _values("padding", 1),
    "dilation": _values("dilation", 2),
    "groups": _values("groups", 2),
    "padding_mode": _values("padding_mode", "zeros", "reflect", "replicate", "circular"),
    "output_padding": _values("output_padding", 1, stride=2),
    "step_mode": _values("step_mode", "s", "m"),
    "padding_idx": _values("padding_idx", 0),
    "max_norm": _values("max_norm", 1.0),
    "norm_type": _values("norm_type", 1.0),
    "scale_grad_by_freq": _values("scale_grad_by_freq", True),
    "sparse": _values("sparse", True),
}
#: Arguments that say how large a layer is, or where it lives.
_NO_OPTIONS = {
    "in_features", "out_features", "in_channels", "out_channels", "kernel_size", "num_embeddings", "embedding_dim",
    "device", "dtype", "_weight", "_freeze",
}  # fmt: skip


def _layer_options(cls: type[nn.Module], known: Mapping[type[nn.Module], type[nn.Module]]) -> str:
    arguments = _LAYER_ARGUMENTS.get(cls.__name__, (4, 4, 3))
    taken, refused = [], []
    for name in (n for n in dict.fromkeys(_parameters(cls)) if n not in _NO_OPTIONS):
        for label, options in _LAYER_OPTIONS[name].items():
            try:
                module = cls(*arguments, **options)
            except ValueError:
                continue  # torch itself has no such layer
            target, _ = target_of(module, known)
            (taken if target is not None else refused).append((name, label))
    names = dict.fromkeys(name for name, _ in taken)
    text = ", ".join(f"`{name}`" for name in names)
    return text + (f"; left in float: {', '.join(f'`{label}`' for _, label in refused)}" if refused else "")


def layers(known: Mapping[type[nn.Module], type[nn.Module]], others: Mapping[str, tuple[str, str]]) -> str:
    """Return a table of layers: first those that are quantised, then the others."""
    rows = [[f"`{cls.__name__}`", "yes", _layer_options(cls, known)] for cls in known]
    for names, (answer, text) in others.items():
        rows.append([", ".join(f"`{name}`" for name in names.split()), answer, text])
    return _table(["layer", "low-bit weights", "options; or what becomes of it in a file"], rows)


def classes_of(module: ModuleType) -> set[str]:
    """Return the names of the module classes that a package of a framework defines."""
    return {
        name
        for name, cls in vars(module).items()
        if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__.startswith(module.__name__)
    }


def named_in(table: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return the classes that a table of layers answers for."""
    return [name for names in table for name in names.split()]


def render() -> str:
    """Return the page."""
    snn, jelly = snn_extreme_quant_snntorch.plugin, snn_extreme_quant_spikingjelly.plugin
    inside = ", ".join(f"`{neuron}.{name}`" for neuron, names in INNER_LAYERS.items() for name in names)
    return f"""# What is supported

Written by `benchmarks/support_table.py` from the plugins' registries, by trying each option of each constructor; do not
edit it by hand. A test fails where this page and the code differ, or where a framework has a class that is not on it.

A neuron that is **read** is exported with its exact equations, and its tests compare spikes and states with the
framework's own bit for bit. The others stop `export_onnx` with the reason that stands here, and the name of the layer;
so do refused options, with the remedy. A subclass is read if it overrides nothing that computes. The operator's parts
are explained in [operators.md](operators.md).

Options that are numbers may be vectors in snnTorch, and be trained. SpikingJelly's neurons are read in both step modes,
`CUBALIFNode` (whose constructor has no `step_mode`) too, and `OTTTLIFNode` in single steps alone.

## Neurons of snnTorch ({snn.requirement})

{neurons(snn, _SNNTORCH_OPTIONS)}

## Neurons and stateful layers of SpikingJelly ({jelly.requirement})

A network or block that derives from `MemoryModule` and registers no memory of its own is no neuron; what is inside it
counts by itself.

{neurons(jelly, _SPIKINGJELLY_OPTIONS)}

## Layers of torch

`quantize_` swaps the layers with **yes** for low-bit ones, subclasses too if they override nothing that computes.

{layers(TORCH_LAYERS, TORCH)}

## Layers of SpikingJelly

{layers(jelly.layers(), SPIKINGJELLY)}

## Layers of snnTorch

Between its neurons snnTorch uses torch's layers. Those inside neurons are swapped too: {inside}.

{layers(snn.layers(), SNNTORCH)}
"""


if __name__ == "__main__":
    parser(__doc__).parse_args()
    PAGE.write_text(render(), encoding="utf-8")
