import pytest

from snn_extreme_quant.errors import RegistryError
from snn_extreme_quant.registry import Registry, suggest


@pytest.fixture
def colours() -> Registry[object]:
    registry: Registry[object] = Registry("colour")
    registry.register("red", 1, origin="paint")
    registry.register_lazy("green", "fractions:Fraction", origin="meadow")
    return registry


def test_get_loads_lazy_entries_once(colours: Registry[object]) -> None:
    from fractions import Fraction

    assert colours.get("red") == 1
    assert colours.get("green") is Fraction
    assert colours.get("green") is Fraction


def test_iteration_length_and_membership_load_nothing() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register_lazy("absent", "no_such_module_xyz:thing", origin="nowhere")
    assert (list(registry), len(registry), "absent" in registry, "other" in registry) == (["absent"], 1, True, False)


def test_unknown_name_suggests_the_nearest(colours: Registry[object]) -> None:
    with pytest.raises(RegistryError, match=r"No colour is called 'gren'\. Did you mean 'green'\?"):
        colours.get("gren")


def test_a_name_taken_twice_names_both_owners(colours: Registry[object]) -> None:
    with pytest.raises(RegistryError, match="colour 'red' is registered by paint and again by sunset; rename one"):
        colours.register("red", 2, origin="sunset")
    assert colours.get("red") == 1


def test_a_lazy_name_taken_twice_is_refused_without_loading(colours: Registry[object]) -> None:
    with pytest.raises(RegistryError, match="meadow and again by sea"):
        colours.register_lazy("green", "no_such_module_xyz:thing", origin="sea")


@pytest.mark.parametrize("where", ["no_such_module_xyz:thing", "fractions:NoSuchName"])
def test_a_lazy_entry_that_cannot_be_loaded_names_its_owner(where: str) -> None:
    registry: Registry[object] = Registry("colour")
    registry.register_lazy("blue", where, origin="sky 1.0")
    with pytest.raises(RegistryError, match=r"colour 'blue' of sky 1\.0 cannot be loaded: .*no_such_module_xyz|NoSuch"):
        registry.get("blue")


@pytest.mark.parametrize("where", ["fractions", "a:b:c", "fractions.Fraction"])
def test_a_malformed_place_is_refused(where: str) -> None:
    with pytest.raises(RegistryError, match=r"not of the form 'package\.module:attribute'"):
        Registry("colour").register_lazy("blue", where, origin="sky")


def test_none_may_be_registered() -> None:
    registry: Registry[None] = Registry("thing")
    registry.register("nothing", None, origin="here")
    assert registry.get("nothing") is None


def test_origin(colours: Registry[object]) -> None:
    assert (colours.origin("red"), colours.origin("green")) == ("paint", "meadow")
    with pytest.raises(RegistryError, match="No colour"):
        colours.origin("blue")


@pytest.mark.parametrize(
    ("name", "known", "sentence"),
    [
        ("ternry", ["binary", "ternary"], "Did you mean 'ternary'?"),
        ("xyz", ["b", "a"], "Known: a, b."),
        ("xyz", [], "Nothing is known."),
        (
            "xyz",
            [f"n{i:02}" for i in range(20)],
            f"Known: {', '.join(f'n{i:02}' for i in range(12))}, ... (20 in all).",
        ),
    ],
)
def test_suggest(name: str, known: list[str], sentence: str) -> None:
    assert suggest(name, known) == sentence
