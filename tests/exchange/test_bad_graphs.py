"""Graphs that were changed, or are no models: refused by name, with the remedy."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

import snn_extreme_quant as sxq
from snn_extreme_quant.errors import (
    ModelEditedError,
    ModelFileError,
    UnsupportedModelError,
    UnsupportedNeuronError,
)
from snn_extreme_quant.exchange import from_nir, to_nir
from snn_extreme_quant.exchange.metadata import KEY

from .networks import build


@pytest.fixture
def graph() -> Any:
    return to_nir(build("Leaky subtract delayed", sxq.Ternary())[0])


def test_changed_weights_and_neurons_are_noticed(graph: Any) -> None:
    for name, field in (("0", "weight"), ("1", "tau"), ("3", "v_threshold")):
        changed = copy.deepcopy(graph)
        getattr(changed.nodes[name], field).reshape(-1)[0] *= 1.5
        with pytest.raises(ModelEditedError, match=f"node '{name}' is not that of"):
            from_nir(changed)
        del changed.nodes[name].metadata[KEY]
        if name == "0":
            assert type(from_nir(changed).get_submodule("0")) is nn.Linear


def test_changed_groups_are_noticed() -> None:
    graph = to_nir(*build("snnTorch residual", sxq.Ternary()))
    graph.nodes["block.conv"].weight[0, 3] = 1.0
    with pytest.raises(ModelEditedError, match="of different groups"):
        from_nir(graph)


def about(change: Callable[[str], str]) -> Callable[[dict[str, Any]], None]:
    def damage(metadata: dict[str, Any]) -> None:
        metadata["about"] = change(metadata["about"])

    return damage


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.pop(key)


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda metadata: metadata.update({key: value})


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("0", about(lambda text: text[:-1]), "damaged"),
        ("0", about(lambda text: text.replace('"version": 1', '"version": 2')), "version 2; this release reads 1"),
        ("0", about(lambda text: text.replace("ternary4", "ternary9")), "ternary9"),
        ("0", about(lambda text: text.replace('"kind": "ternary"', '"kind": "tern"')), "tern"),
        ("0", put("codes", np.full((12, 3), 255, np.uint8)), "damaged"),
        ("0", drop("scale"), "scale"),
        ("0", put("scale", np.ones(3, np.float32)), "scale of node '0' is damaged"),
        ("0", put("scale", np.full(9, np.nan, np.float32)), "scale of node '0' is damaged"),
        ("1", about(lambda text: text.replace('"charge": "leak"', '"charge": "leek"')), "leek"),
        ("1", drop("parameter_decay"), "parameter_decay"),
        ("1", put("parameter_decay", np.zeros(2, np.float32)), "neuron of node '1' is damaged"),
    ],
)
def test_damaged_metadata_is_noticed(graph: Any, name: str, damage: Any, message: str) -> None:
    damage(graph.nodes[name].metadata[KEY])
    with pytest.raises(ModelFileError, match=message):
        from_nir(graph)


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    (tmp_path / "net.nir").write_text("no graph")
    for path in (tmp_path / "net.nir", str(tmp_path / "none.nir"), tmp_path):
        with pytest.raises(ModelFileError, match="cannot be read as a NIR graph"):
            from_nir(path)
    with pytest.raises(UnsupportedModelError, match="got list"):
        from_nir([])


def linear() -> Any:
    return nir.Linear(np.ones((2, 2), np.float32))


def graph_of(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> Any:
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    return nir.NIRGraph({**ends, **nodes}, edges, type_check=False)


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ({"a": linear(), "b": linear()}, [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")], "loop .*recurrent"),
        ({"a": linear()}, [("input", "output")], "'a' has no input"),
        ({"in2": nir.Input(np.array([2]))}, [("input", "output")], "2 Input nodes"),
        (
            {"g": graph_of({}, [("input", "output")])},
            [("input", "g"), ("g", "output")],
            "a graph of its own, as recurrent layers are",
        ),
        ({"d": nir.Delay(np.ones(2))}, [("input", "d"), ("d", "output")], "'d' is a NIR Delay"),
    ],
    ids=["loop", "no input", "two inputs", "nested", "unknown"],
)
def test_graphs_that_are_no_models(nodes: dict[str, Any], edges: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        from_nir(graph_of(nodes, edges))


def test_neurons_stay_in_their_framework(graph: Any) -> None:
    with pytest.raises(UnsupportedNeuronError, match="spikingjelly has no neuron for node '1'"):
        from_nir(graph, "spikingjelly")


def test_infinite_parameters_are_noticed() -> None:
    node = nir.IF(np.full(2, np.inf), np.ones(2))
    with pytest.raises(ModelFileError, match="NaN or infinite"):
        from_nir(graph_of({"n": node}, [("input", "n"), ("n", "output")]), "snntorch")


def test_multi_step_models_take_sequences() -> None:
    net = nn.Sequential(layer.Linear(4, 4, step_mode="m"), neuron.IFNode(step_mode="m"))
    with pytest.raises(UnsupportedModelError, match="takes 3 axes"):
        to_nir(net, torch.zeros(2, 4))
