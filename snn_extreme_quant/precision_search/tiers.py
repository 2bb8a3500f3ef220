"""The tiers of the search: groups of matrices that are lowered together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from snn_extreme_quant.errors import ConfigError
from snn_extreme_quant.precision_search.hierarchy import Block, Hierarchy
from snn_extreme_quant.registry import suggest

__all__ = ["TIERS", "Group", "Tier", "check_tiers", "tiers_of"]

TIERS = ("global", "block", "module", "matrix")
_TIES = ("blocks", "modules")


@dataclass(frozen=True)
class Group:
    """Matrices that have one level.

    Args:
        name: for people.
        matrices: their names.
        blocks: the blocks that they are of.
    """

    name: str
    matrices: tuple[str, ...]
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Tier:
    """Groups that are lowered one after the other.

    Args:
        name: one of :data:`TIERS`.
        groups: the least sensitive first.
    """

    name: str
    groups: tuple[Group, ...]


def check_tiers(tiers: Iterable[str], ties: Iterable[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return both as tuples; raises :class:`ConfigError` for a name that does not exist."""
    checked = []
    for given, known, what in ((tiers, TIERS, "tiers"), (ties, _TIES, "ties")):
        names = (given,) if isinstance(given, str) else tuple(given)
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            raise ConfigError(f"{what}={names!r}: {suggest(str(unknown), known)}")
        checked.append(names)
    if not checked[0]:
        raise ConfigError(f"tiers is empty; use some of {', '.join(TIERS)}.")
    return tuple(name for name in TIERS if name in checked[0]), frozenset(checked[1])


def tiers_of(
    hierarchy: Hierarchy,
    names: Sequence[str],
    ties: Iterable[str],
    sensitivity: Mapping[str, float],
    size: Mapping[str, int],
) -> tuple[Tier, ...]:
    """Return the tiers, their groups in order.

    Args:
        hierarchy: blocks, modules, matrices.
        names: of tiers, in their order.
        ties: ``"blocks"`` and ``"modules"`` of the body that are lowered together.
        sensitivity: of each block; of groups over several the mean. Where it is equal, the larger group comes first.
        size: bytes of each matrix in float.
    """
    tied = frozenset(ties)
    makers = {"global": _global, "block": _blocks, "module": _modules, "matrix": _matrices}
    found: list[Tier] = []
    before: set[frozenset[str]] = set()
    for name in names:
        groups = makers[name](hierarchy, tied)
        new = [group for group in groups if frozenset(group.matrices) not in before]
        before = {frozenset(group.matrices) for group in groups} | before

        def order(group: Group) -> tuple[float, int]:
            mean = sum(sensitivity.get(block, 0.0) for block in group.blocks) / len(group.blocks)
            return mean, -sum(size[matrix] for matrix in group.matrices)

        if new:
            found.append(Tier(name, tuple(sorted(new, key=order))))
    return tuple(found)


def _global(hierarchy: Hierarchy, _: frozenset[str]) -> list[Group]:
    return [Group("all", hierarchy.matrices, tuple(block.name for block in hierarchy.blocks))]


def _joined(name: str, groups: Sequence[Group]) -> Group:
    matrices = tuple(matrix for group in groups for matrix in group.matrices)
    return Group(name, matrices, tuple(dict.fromkeys(block for group in groups for block in group.blocks)))


def _body(hierarchy: Hierarchy) -> list[Block]:
    return [block for block in hierarchy.blocks if block.role == "body"]


def _blocks(hierarchy: Hierarchy, ties: frozenset[str]) -> list[Group]:
    groups = {block.name: Group(block.name, block.matrices, (block.name,)) for block in hierarchy.blocks}
    body = [groups.pop(block.name) for block in _body(hierarchy)] if "blocks" in ties else []
    return [*groups.values(), *([_joined("body", body)] if body else [])]


def _modules(hierarchy: Hierarchy, ties: frozenset[str]) -> list[Group]:
    return _within(ties, [(b, part.name, part.matrices) for b in hierarchy.blocks for part in b.modules])


def _matrices(hierarchy: Hierarchy, ties: frozenset[str]) -> list[Group]:
    parts = [
        (block, matrix.removeprefix(f"{block.name}."), (matrix,))
        for block in hierarchy.blocks
        for matrix in block.matrices
    ]
    return _within(ties, parts)


def _within(ties: frozenset[str], parts: Sequence[tuple[Block, str, tuple[str, ...]]]) -> list[Group]:
    """Return groups of parts of blocks, those of one name in the body together where they are tied."""
    separate: list[Group] = []
    together: dict[str, list[Group]] = {}
    for block, name, matrices in parts:
        path = name if name.startswith(f"{block.name}.") or block.role != "body" else f"{block.name}.{name}"
        group = Group(path, matrices, (block.name,))
        if "modules" in ties and block.role == "body":
            together.setdefault(name, []).append(group)
        else:
            separate.append(group)
    return [*separate, *(_joined(f"*.{name}", groups) for name, groups in together.items())]
