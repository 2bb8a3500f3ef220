"""Finds plugins by entry point, on first use and never on import.

The environment variable ``SXQ_PLUGINS`` restricts them: ``none``, or names separated by commas.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version

from packaging.requirements import InvalidRequirement, Requirement

from snn_extreme_quant.errors import PluginError
from snn_extreme_quant.frameworks.contract import API_VERSION, Framework
from snn_extreme_quant.registry import suggest

__all__ = ["GROUP", "PluginStatus", "frameworks", "plugin_statuses"]

GROUP = "snn_extreme_quant.frameworks"
ENVIRONMENT = "SXQ_PLUGINS"

#: The attributes and methods of the contract.
_CONTRACT = sorted(name for name in {*Framework.__annotations__, *vars(Framework)} if not name.startswith("_"))


@dataclass(frozen=True)
class PluginStatus:
    """What became of one plugin.

    Args:
        name: the entry point's name.
        origin: the distribution it comes from.
        origin_version: that distribution's version.
        framework_version: the version of the framework that is installed, if any.
        state: ``"available"``, ``"unavailable"`` (its framework is missing or of another version), ``"disabled"``
            (by ``SXQ_PLUGINS``) or ``"broken"``.
        detail: the reason, and how to install what is missing.
        framework: the plugin, if available.
    """

    name: str
    origin: str
    origin_version: str
    state: str
    detail: str = ""
    framework_version: str | None = None
    framework: Framework | None = None


def _enabled(names: Iterable[str]) -> set[str]:
    names = set(names)
    value = os.environ.get(ENVIRONMENT)
    if value is None or not value.strip():
        return names
    if value.strip() == "none":
        return set()
    wanted = {part.strip() for part in value.split(",") if part.strip()}
    for name in sorted(wanted - names):
        raise PluginError(f"{ENVIRONMENT}={value}: no plugin is called {name!r}. {suggest(name, names)}")
    return wanted


def _status(point: EntryPoint) -> PluginStatus:
    origin = point.dist.name if point.dist else "unknown distribution"
    origin_version = point.dist.version if point.dist else "?"

    def status(state: str, detail: str = "", found: str | None = None, plugin: Framework | None = None) -> PluginStatus:
        return PluginStatus(point.name, origin, origin_version, state, detail, found, plugin)

    try:
        plugin = point.load()
    except Exception as error:  # a third party's import can fail in any way
        return status("broken", f"importing {point.value} failed: {type(error).__name__}: {error}")
    if not isinstance(plugin, Framework):
        missing = [name for name in _CONTRACT if not hasattr(plugin, name)]
        return status("broken", f"{point.value} does not satisfy the Framework contract: {', '.join(missing)} missing")
    if plugin.name != point.name:
        return status("broken", f"{point.value} calls itself {plugin.name!r}, its entry point {point.name!r}")
    if plugin.api_version != API_VERSION:
        advice = "update the plugin" if plugin.api_version < API_VERSION else "update snn-extreme-quant"
        return status("broken", f"written for contract {plugin.api_version}, this is contract {API_VERSION}: {advice}")
    try:
        requirement = Requirement(plugin.requirement)
    except InvalidRequirement:
        return status("broken", f"{plugin.requirement!r} is no requirement; write it like 'snntorch>=1.0,<2'")
    try:
        found: str | None = version(requirement.name)
    except PackageNotFoundError:
        found = None
    if found is not None and not requirement.specifier.contains(found, prereleases=True):
        return status("unavailable", f"needs {requirement}, found {found}; run: {plugin.install}", found)
    try:
        importable = plugin.is_available()
    except Exception as error:  # forbidden by the contract, but a third party's code
        return status("broken", f"is_available() failed: {type(error).__name__}: {error}", found)
    if not importable:
        reason = "is not installed" if found is None else "is installed but cannot be imported"
        return status("unavailable", f"{requirement.name} {reason}; run: {plugin.install}", found)
    return status("available", "", found, plugin)


def plugin_statuses() -> list[PluginStatus]:
    """Return what became of each plugin, sorted by name. Only a duplicate or an unknown name raises.

    Raises:
        PluginError: two distributions publish the same name, or ``SXQ_PLUGINS`` names one that is not there.
    """
    points = sorted(entry_points(group=GROUP), key=lambda p: p.name)
    by_name: dict[str, EntryPoint] = {}
    for point in points:
        other = by_name.setdefault(point.name, point)
        if other.value != point.value:
            owners = " and ".join(sorted(p.dist.name if p.dist else "?" for p in (other, point)))
            raise PluginError(f"Two plugins are called {point.name!r}, of {owners}; uninstall one of them.")
    enabled = _enabled(by_name)
    return [
        _status(point)
        if name in enabled
        else PluginStatus(
            name,
            point.dist.name if point.dist else "?",
            point.dist.version if point.dist else "?",
            "disabled",
            f"by {ENVIRONMENT}={os.environ.get(ENVIRONMENT)}",
        )
        for name, point in by_name.items()
    ]


def frameworks(statuses: Iterable[PluginStatus] | None = None) -> list[Framework]:
    """Return the plugins whose framework is installed.

    Args:
        statuses: what :func:`plugin_statuses` gave, if it was asked already.

    Raises:
        PluginError: a plugin is broken; the message names its distribution. ``SXQ_PLUGINS`` can leave it out.
    """
    found = []
    for status in plugin_statuses() if statuses is None else statuses:
        if status.state == "broken":
            raise PluginError(
                f"The plugin {status.name!r} of {status.origin} {status.origin_version} is broken: {status.detail}."
                f" Update or uninstall it, or leave it out with {ENVIRONMENT}."
            )
        if status.framework is not None:
            found.append(status.framework)
    return found
