"""What is searched: blocks of a network, their modules, and the matrices in these.

The blocks are read from the tree of modules; ``docs/search.md`` (What is searched) has the rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from torch import nn

from snn_extreme_quant.accounting import WeightShape, weight_shapes
from snn_extreme_quant.config import check_patterns, matches
from snn_extreme_quant.errors import ConfigError, NothingToQuantizeError

__all__ = ["Block", "Hierarchy", "Part", "Role", "matrices_of"]

Role = Literal["input", "body", "output"]
_ROLES = ("input", "body", "output")
#: Classes that say nothing of what they hold: their children tell whether two of them are alike.
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def matrices_of(model: nn.Module) -> tuple[WeightShape, ...]:
    """Return the matrices that :func:`~snn_extreme_quant.quantize_` swaps or has swapped, in the model's order."""
    return tuple(weight for weight in weight_shapes(model) if weight.kind != "Parameter")


@dataclass(frozen=True)
class Part:
    """A module of a block.

    Args:
        name: within the block.
        matrices: names of layers.
    """

    name: str
    matrices: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A block of the network.

    Args:
        name: of the module in the model, or ``"input"``, ``"output"``.
        role: what it is.
        modules: in their order.
    """

    name: str
    role: Role
    modules: tuple[Part, ...]

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices of all modules."""
        return tuple(name for part in self.modules for name in part.matrices)


@dataclass(frozen=True)
class Hierarchy:
    """Blocks, modules and matrices of a network.

    Args:
        blocks: in the network's order.
        left: matrices that stay in float.

    Example:
        >>> layer = lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        >>> print(Hierarchy.of(nn.Sequential(nn.Linear(2, 4), layer(), layer(), nn.Linear(4, 2))))
        input (input)
          0: 0
        1 (body)
          0: 1.0
          2: 1.2
        2 (body)
          0: 2.0
          2: 2.2
        output (output)
          3: 3
    """

    blocks: tuple[Block, ...]
    left: tuple[str, ...] = ()

    @property
    def matrices(self) -> tuple[str, ...]:
        """All matrices that are searched."""
        return tuple(name for block in self.blocks for name in block.matrices)

    @classmethod
    def of(cls, model: nn.Module, skip: Iterable[str] = ()) -> Self:
        """Read the hierarchy from a model's tree of modules.

        Args:
            model: any model.
            skip: names or shell patterns of layers, or of modules that hold layers, to leave in float.

        Raises:
            NothingToQuantizeError: no matrix is left.
            UnmatchedNameError: a pattern in ``skip`` matches nothing.
        """
        names = [weight.name for weight in matrices_of(model)]
        left = _skipped(model, names, skip)
        names = [name for name in names if name not in left]
        _check_left(model, names)
        pieces = list(_pieces(model, "", names))
        if not any(repeats for _, _, repeats in pieces):
            return cls(tuple(_single_layers(names)), left)
        first = next(i for i, piece in enumerate(pieces) if piece[2])
        last = max(i for i, piece in enumerate(pieces) if piece[2])
        blocks = [_body(model, name, held) for name, held, _ in pieces[first : last + 1]]
        loose = {"input": pieces[:first], "output": pieces[last + 1 :]}
        ends = {role: [Part(name, held) for name, held, _ in parts] for role, parts in loose.items()}
        before = [Block("input", "input", tuple(ends["input"]))] if ends["input"] else []
        behind = [Block("output", "output", tuple(ends["output"]))] if ends["output"] else []
        return cls((*before, *blocks, *behind), left)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], model: nn.Module | None = None) -> Self:
        """Build a hierarchy from a description; ``docs/search.md`` shows one.

        Args:
            data: ``"blocks"`` and perhaps ``"float"``.
            model: whose matrices the names and shell patterns stand for; without it they have to be names.

        Raises:
            ConfigError: it is no description, or a matrix is in two blocks, or in none.
            UnmatchedNameError: a name matches no matrix.
        """
        given: object = data
        blocks = given.get("blocks") if isinstance(given, Mapping) else None
        if not isinstance(blocks, Sequence) or isinstance(blocks, str):
            raise ConfigError("A hierarchy is {'blocks': [{'name': ..., 'role': ..., 'modules': [...]}, ...]}.")
        unknown = sorted(set(data) - {"blocks", "float"})
        if unknown:
            raise ConfigError(f"A hierarchy has 'blocks' and 'float', not {unknown[0]!r}.")
        found = cls(tuple(_block(entry) for entry in blocks), _names(data.get("float", ()), "'float'"))
        if model is None:
            return found
        known = [weight.name for weight in matrices_of(model)]
        named = tuple(
            Block(block.name, block.role, tuple(Part(p.name, _resolved(p.matrices, known)) for p in block.modules))
            for block in found.blocks
        )
        resolved = cls(named, _resolved(found.left, known))
        resolved.check(known)
        return resolved

    def without(self, model: nn.Module, skip: Iterable[str]) -> Self:
        """Return it with more matrices left in float; parts and blocks that have none then are left out.

        Args:
            model: whose layers these are.
            skip: names or shell patterns of layers, or of modules that hold layers.

        Raises:
            NothingToQuantizeError: no matrix is left.
            UnmatchedNameError: a pattern matches nothing.
        """
        left = _skipped(model, [weight.name for weight in matrices_of(model)], skip)
        blocks = []
        for block in self.blocks:
            parts = [Part(p.name, tuple(name for name in p.matrices if name not in left)) for p in block.modules]
            blocks.append(Block(block.name, block.role, tuple(part for part in parts if part.matrices)))
        kept = tuple(block for block in blocks if block.modules)
        _check_left(model, [name for block in kept for name in block.matrices])
        return type(self)(kept, tuple(dict.fromkeys((*self.left, *left))))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; :meth:`from_dict` is the inverse."""
        blocks = [
            {
                "name": block.name,
                "role": block.role,
                "modules": [{"name": part.name, "matrices": list(part.matrices)} for part in block.modules],
            }
            for block in self.blocks
        ]
        return {"blocks": blocks, **({"float": list(self.left)} if self.left else {})}

    def check(self, names: Iterable[str]) -> None:
        """Raise :class:`ConfigError` unless each of ``names``, the matrices of a model, is in one place exactly."""
        places = Counter([*self.matrices, *self.left])
        twice = next((name for name, count in places.items() if count > 1), None)
        if twice is not None:
            raise ConfigError(f"The matrix {twice!r} is in the hierarchy more than once; leave it in one module.")
        known = list(names)
        check_patterns(places, known, "the hierarchy")
        missing = next((name for name in known if name not in places), None)
        if missing is not None:
            raise ConfigError(
                f"The matrix {missing!r} is in no block of the hierarchy; put it into one, or into 'float'."
            )

    def __str__(self) -> str:
        """Render as an indented list."""
        lines = []
        for block in self.blocks:
            lines.append(f"{block.name} ({block.role})")
            lines += [f"  {part.name}: {', '.join(part.matrices)}" for part in block.modules]
        return "\n".join((*lines, *([f"float: {', '.join(self.left)}"] if self.left else [])))


# Reading a model.


def _check_left(model: nn.Module, names: Sequence[str]) -> None:
    if not names:
        raise NothingToQuantizeError(
            f"There is nothing to search in {type(model).__name__}: no layer that quantize_ swaps is left."
        )


def _skipped(model: nn.Module, names: Sequence[str], skip: Iterable[str]) -> tuple[str, ...]:
    patterns = [skip] if isinstance(skip, str) else list(skip)
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    check_patterns(patterns, modules, "skip")
    outer = [name for name in modules if any(matches(name, pattern) for pattern in patterns)]
    return tuple(name for name in names if any(_inside(name, holder) for holder in outer))


def _inside(name: str, outer: str) -> bool:
    """Whether a matrix is the module ``outer``, or in it."""
    return not outer or name == outer or name.startswith(f"{outer}.")


def _child(outer: str, name: str) -> str:
    return f"{outer}.{name}" if outer else name


def _held(name: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(matrix for matrix in names if _inside(matrix, name))


def _pieces(module: nn.Module, name: str, names: Sequence[str]) -> Iterable[tuple[str, tuple[str, ...], bool]]:
    """Yield parts of a module that hold matrices, in order: name, matrices, and whether it is one that repeats."""
    children = [(_child(name, key), child) for key, child in module.named_children()]
    holding = [(path, child, held) for path, child in children if (held := _held(path, names))]
    if name in names:  # a layer itself
        yield name, (name,), False
        return
    likeness = {path: _likeness(path, child, held) for path, child, held in holding}
    counts = Counter(alike for alike in likeness.values() if alike is not None)
    for path, child, held in holding:
        alike = likeness[path]
        listed = isinstance(module, nn.ModuleList) and len(held) > 1
        repeats = alike is not None and (counts[alike] > 1 or listed)
        if repeats and not isinstance(child, _CONTAINERS):
            yield path, held, True
            continue
        inner = list(_pieces(child, path, names))
        if any(inside for _, _, inside in inner):
            yield from inner
        else:
            yield path, held, repeats


def _likeness(path: str, module: nn.Module, held: tuple[str, ...]) -> Any:
    """Return what two children have in common that repeat; None for a layer, which does not."""
    if held == (path,):
        return None
    if isinstance(module, _CONTAINERS):
        return type(module), tuple(
            (name[len(path) :], type(module.get_submodule(name[len(path) + 1 :]))) for name in held
        )
    return type(module)


def _body(model: nn.Module, name: str, held: tuple[str, ...]) -> Block:
    """Return a block of the body, with what it consists of."""
    inner, module = name, model.get_submodule(name)
    while True:
        parts = [(_child(inner, key), _held(_child(inner, key), held)) for key, _ in module.named_children()]
        parts = [(path, matrices) for path, matrices in parts if matrices]
        if len(parts) != 1 or parts[0][1] == (parts[0][0],):
            break
        inner, module = parts[0][0], model.get_submodule(parts[0][0])
    if not parts:  # a layer between blocks
        return Block(name, "body", (Part(name.rpartition(".")[2], held),))
    return Block(name, "body", tuple(Part(path[len(name) + 1 :], matrices) for path, matrices in parts))


def _single_layers(names: Sequence[str]) -> Iterable[Block]:
    for number, name in enumerate(names):
        role: Role = "body"
        if len(names) > 1:
            role = "input" if number == 0 else "output" if number == len(names) - 1 else "body"
        yield Block(name, role, (Part(name.rpartition(".")[2], (name,)),))


# Reading a description.


def _block(entry: Any) -> Block:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ConfigError(f"A block of a hierarchy has 'name', 'role' and 'modules'; got {entry!r}.")
    name, role = entry["name"], entry.get("role", "body")
    if role not in _ROLES:
        raise ConfigError(f"Block {name!r}: role={role!r}; use 'input', 'body' or 'output'.")
    modules = entry.get("modules")
    if not isinstance(modules, Sequence) or not modules:
        raise ConfigError(f"Block {name!r} needs 'modules', a list of {{'name': ..., 'matrices': [...]}}.")
    parts = []
    for part in modules:
        if not isinstance(part, Mapping) or not isinstance(part.get("name"), str):
            raise ConfigError(f"Block {name!r}: a module has 'name' and 'matrices'; got {part!r}.")
        parts.append(Part(part["name"], _names(part.get("matrices"), f"module {part['name']!r} of block {name!r}")))
    return Block(name, role, tuple(parts))


def _names(given: Any, where: str) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f"The matrices of {where} are a list of names; got {given!r}.")
    return tuple(given)


def _resolved(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    check_patterns(patterns, names, "the hierarchy")
    return tuple(name for name in names if any(matches(name, pattern) for pattern in patterns))
