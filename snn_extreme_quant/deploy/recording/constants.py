"""Computes, once and in torch, what a recorded graph computes of its constants alone.

A threshold that is trained as a logarithm, say: runtimes have an exponential of their own, whose last bit may differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["with_constants", "without_dropout"]


def without_dropout(module: fx.GraphModule) -> fx.GraphModule:
    """Take out dropout that does nothing, as it does outside training; the graph is changed."""
    for node in module.graph.find_nodes(op="call_function", target=torch.ops.aten.dropout.default):
        if node.args[2] is False:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return module


def with_constants(module: fx.GraphModule) -> fx.GraphModule:
    """Put a constant in the place of what is computed of parameters and buffers alone; the graph is changed.

    Example:
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.log = torch.nn.Parameter(torch.zeros(2))
        ...     def forward(self, x):
        ...         return x * self.log.exp()
        >>> graph = with_constants(torch.export.export(Net(), (torch.ones(2),)).module())
        >>> [node.op for node in graph.graph.nodes if node.op == "call_function" and "exp" in str(node.target)]
        []
    """
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = _attribute(module, str(node.target))
        elif node.op == "call_function" and node.all_input_nodes and all(n in known for n in node.all_input_nodes):
            with torch.no_grad():
                known[node] = node.target(
                    *fx.map_arg(node.args, known.__getitem__), **fx.map_arg(node.kwargs, known.__getitem__)
                )
    for node, value in known.items():
        # Only what something that is no constant reads, and what is not a constant already.
        if node.op == "get_attr" or not isinstance(value, Tensor) or all(user in known for user in node.users):
            continue
        name = f"sxq_computed_{len(dict(module.named_buffers()))}"
        module.register_buffer(name, value.detach().clone())
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(name)
        constant.meta.update(node.meta)
        node.replace_all_uses_with(constant)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _attribute(module: fx.GraphModule, target: str) -> Any:
    value: Any = module
    for part in target.split("."):
        value = getattr(value, part)
    return value
