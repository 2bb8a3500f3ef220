import builtins

import pytest

from snn_extreme_quant import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_an_sxq_error(name: str) -> None:
    assert issubclass(getattr(errors, name), errors.SxqError)


def test_all_errors_are_listed() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigError", "ValueError"),
        ("RegistryError", "LookupError"),
        ("PluginError", "RuntimeError"),
        ("UnsupportedNeuronError", "TypeError"),
        ("UnsupportedModelError", "TypeError"),
        ("UnmatchedNameError", "ValueError"),
        ("NonFiniteWeightError", "ValueError"),
        ("OutputPathError", "OSError"),
    ],
)
def test_built_in_handlers_still_catch_them(name: str, builtin: str) -> None:
    with pytest.raises(getattr(builtins, builtin)):
        raise getattr(errors, name)("why")
