"""Plugins found by entry point: which load, which do not and why, and what the environment says."""

import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import EntryPoint, PackageNotFoundError
from typing import Any

import pytest

from snn_extreme_quant.errors import PluginError
from snn_extreme_quant.frameworks import Framework, frameworks, loader, plugin_statuses


class Plugin:
    """A framework that has nothing in it, of a version that is installed: packaging's own."""

    name = "alpha"
    api_version = loader.API_VERSION
    requirement = "packaging>=1"
    install = "pip install alpha"
    reset_methods = ("reset",)

    def is_available(self) -> bool:
        return True

    def neuron_classes(self) -> list[Any]:
        return []

    def unreadable_neurons(self) -> dict[str, str]:
        return {}

    def inner_layers(self, module: Any) -> tuple[str, ...]:
        return ()

    def is_neuron(self, module: Any) -> bool:
        return False

    def read_neuron(self, module: Any) -> Any:
        raise NotImplementedError

    def layers(self) -> dict[Any, Any]:
        return {}

    def reset(self, model: Any) -> None: ...

    def get_state(self, module: Any) -> Any: ...

    def set_state(self, module: Any, state: Any) -> None: ...

    def after_swap(self, model: Any) -> None: ...

    def capturing(self) -> Any:
        return nullcontext()


Publish = Callable[..., None]


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Return a function that publishes a plugin; the real ones are out of sight."""
    points: list[EntryPoint] = []
    module = types.ModuleType("sxq_test_plugins")
    monkeypatch.setitem(sys.modules, "sxq_test_plugins", module)
    monkeypatch.setattr(loader, "entry_points", lambda group: tuple(points))
    monkeypatch.delenv(loader.ENVIRONMENT, raising=False)

    def publish(name: str, plugin: object = None, value: str | None = None, dist: str = "alpha-dist") -> None:
        attribute = f"p{len(points)}"
        setattr(module, attribute, plugin)
        point = EntryPoint(name, value or f"sxq_test_plugins:{attribute}", loader.GROUP)
        distribution = types.SimpleNamespace(name=dist, version="1.2")
        vars(point)["dist"] = distribution
        points.append(point)

    return publish


def changed(**attributes: object) -> Plugin:
    plugin = Plugin()
    vars(plugin).update(attributes)
    return plugin


def test_a_good_plugin_is_available(publish) -> None:
    plugin = Plugin()
    publish("alpha", plugin)
    assert frameworks() == [plugin]
    (status,) = plugin_statuses()
    assert (status.name, status.origin, status.origin_version, status.state) == (
        "alpha",
        "alpha-dist",
        "1.2",
        "available",
    )
    assert status.framework is plugin
    assert status.framework_version
    assert isinstance(plugin, Framework)


def test_no_plugins(publish) -> None:
    assert frameworks() == []
    assert plugin_statuses() == []


def test_plugins_are_sorted_by_name(publish) -> None:
    publish("beta", changed(name="beta"))
    publish("alpha", changed())
    assert [f.name for f in frameworks()] == ["alpha", "beta"]


def test_a_missing_framework_is_unavailable_and_says_how_to_install_it(publish, monkeypatch) -> None:
    publish("alpha", changed(requirement="no-such-framework>=3", is_available=lambda: False))
    (status,) = plugin_statuses()
    assert (status.state, status.framework, status.framework_version) == ("unavailable", None, None)
    assert status.detail == "no-such-framework is not installed; run: pip install alpha"
    assert frameworks() == []


def test_a_framework_that_cannot_be_imported(publish) -> None:
    publish("alpha", changed(is_available=lambda: False))
    (status,) = plugin_statuses()
    assert status.state == "unavailable"
    assert status.detail == "packaging is installed but cannot be imported; run: pip install alpha"


@pytest.mark.parametrize("requirement", ["packaging>=9999", "packaging<1", "packaging==0.0.1"])
def test_another_version_of_the_framework_is_unavailable(publish, requirement) -> None:
    publish("alpha", changed(requirement=requirement))
    (status,) = plugin_statuses()
    assert status.state == "unavailable"
    assert status.detail.startswith(f"needs {requirement}, found ")
    assert status.detail.endswith("; run: pip install alpha")
    assert frameworks() == []


def test_a_pre_release_of_the_framework_counts(publish, monkeypatch) -> None:
    monkeypatch.setattr(loader, "version", lambda name: "2.1rc1")
    publish("alpha", changed(requirement="packaging>=2,<3"))
    assert plugin_statuses()[0].state == "available"


def test_a_framework_without_metadata_is_available_if_it_says_so(publish, monkeypatch) -> None:
    """Run from a source checkout, it has no version to compare."""

    def no_version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(loader, "version", no_version)
    publish("alpha", Plugin())
    assert plugin_statuses()[0].state == "available"


class _Raises:
    def __getattr__(self, name: str) -> object:
        raise RuntimeError("boom")


BROKEN = {
    "import fails": ({"value": "no_such_module_xyz:plugin"}, ["no_such_module_xyz:plugin failed: ModuleNotFoundError"]),
    "attribute is missing": ({"value": "sxq_test_plugins:nothing"}, ["AttributeError"]),
    "not a framework": (
        {"plugin": object()},
        ["does not satisfy the Framework contract", "read_neuron", "api_version"],
    ),
    "older contract": (
        {"plugin": changed(api_version=loader.API_VERSION - 1)},
        [f"written for contract {loader.API_VERSION - 1}, this is contract {loader.API_VERSION}", "update the plugin"],
    ),
    "newer contract": (
        {"plugin": changed(api_version=loader.API_VERSION + 1)},
        [f"written for contract {loader.API_VERSION + 1}", "update snn-extreme-quant"],
    ),
    "another name": ({"plugin": changed(name="other")}, ["calls itself 'other', its entry point 'alpha'"]),
    "unreadable requirement": ({"plugin": changed(requirement="not a requirement!")}, ["not a requirement!"]),
    "is_available raises": (
        {"plugin": changed(is_available=lambda: 1 / 0)},
        ["is_available() failed: ZeroDivisionError"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_an_error_that_names_its_distribution(publish, case) -> None:
    arguments, needles = BROKEN[case]
    publish("alpha", **arguments)
    (status,) = plugin_statuses()
    assert status.state == "broken"
    with pytest.raises(PluginError) as caught:
        frameworks()
    message = str(caught.value)
    for needle in ("'alpha' of alpha-dist 1.2 is broken", "SXQ_PLUGINS", *needles):
        assert needle in message


def test_a_broken_plugin_can_be_left_out(publish, monkeypatch) -> None:
    publish("alpha", Plugin())
    publish("beta", value="no_such_module_xyz:plugin")
    monkeypatch.setenv(loader.ENVIRONMENT, "alpha")
    assert [f.name for f in frameworks()] == ["alpha"]
    assert [s.state for s in plugin_statuses()] == ["available", "disabled"]


def test_two_plugins_of_one_name_are_an_error_that_names_both(publish) -> None:
    publish("alpha", Plugin(), dist="first-dist")
    publish("alpha", Plugin(), dist="second-dist")
    for call in (frameworks, plugin_statuses):
        with pytest.raises(PluginError, match="called 'alpha', of first-dist and second-dist; uninstall one of them"):
            call()


def test_the_same_entry_point_found_twice_counts_once(publish) -> None:
    """A distribution that is found over two entries of sys.path is still one."""
    publish("alpha", Plugin())
    publish("alpha", value="sxq_test_plugins:p0")
    assert len(frameworks()) == 1


@pytest.mark.parametrize(
    ("value", "enabled"),
    [
        ("none", []),
        (" none ", []),
        ("alpha", ["alpha"]),
        ("beta,alpha", ["alpha", "beta"]),
        (" alpha , ,beta,", ["alpha", "beta"]),
        ("", ["alpha", "beta", "gamma"]),
    ],
)
def test_environment_chooses(publish, monkeypatch, value, enabled) -> None:
    for name in ("alpha", "beta", "gamma"):
        publish(name, changed(name=name))
    monkeypatch.setenv("SXQ_PLUGINS", value)
    assert [f.name for f in frameworks()] == enabled
    disabled = [s for s in plugin_statuses() if s.state == "disabled"]
    assert len(disabled) == 3 - len(enabled)
    assert all(s.detail == f"by SXQ_PLUGINS={value}" for s in disabled)


@pytest.mark.parametrize(
    ("value", "sentence"), [("alpah", "Did you mean 'alpha'?"), ("alpha,zeta9", "Known: alpha."), ("None", "alpha")]
)
def test_environment_with_an_unknown_name(publish, monkeypatch, value, sentence) -> None:
    publish("alpha", Plugin())
    monkeypatch.setenv("SXQ_PLUGINS", value)
    with pytest.raises(PluginError) as caught:
        frameworks()
    assert f"SXQ_PLUGINS={value}: no plugin is called" in str(caught.value)
    assert sentence in str(caught.value)


def test_a_disabled_plugin_is_not_imported(publish, monkeypatch) -> None:
    publish("alpha", value="no_such_module_xyz:plugin")
    monkeypatch.setenv("SXQ_PLUGINS", "none")
    assert frameworks() == []


def test_our_plugins_are_published_like_anybodys() -> None:
    found = {status.name: status for status in plugin_statuses()}
    assert {"snntorch", "spikingjelly"} <= set(found)
    for name in ("snntorch", "spikingjelly"):
        assert found[name].state == "available", found[name].detail
        assert found[name].origin == "snn-extreme-quant"


def test_plugins_are_not_loaded_on_import() -> None:
    code = (
        "import sys, snn_extreme_quant.frameworks, snn_extreme_quant.replace\n"
        "print(sorted(m for m in sys.modules if m.startswith(('snntorch', 'spikingjelly', 'snn_extreme_quant_'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
