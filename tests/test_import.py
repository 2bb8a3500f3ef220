"""Importing the package is cheap, its names resolve, and its layers import downwards only."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import snn_extreme_quant as sxq

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "snntorch", "spikingjelly", "onnx", "onnxruntime", "onnxscript", "brevitas", "transformers", "numpy")


def run(code: str) -> str:
    """Run ``code`` in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_lean() -> None:
    code = f"import sys, snn_extreme_quant; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert run(code).strip() == "[]"


def test_configs_need_no_torch() -> None:
    code = (
        "import sys, snn_extreme_quant as sxq\n"
        "plan = sxq.PrecisionPlan({'head': sxq.Float()}, default=sxq.Binary(per='tensor'))\n"
        "assert sxq.PrecisionPlan.from_json(plan.to_json()) == plan\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    assert run(code).strip() == "[]"


def test_the_verbs_import_no_framework_and_no_onnx() -> None:
    code = (
        "import sys, snn_extreme_quant as sxq\n"
        "sxq.quantize_, sxq.NeuronSpec, sxq.rate_encode, sxq.reset\n"
        "print(sorted({'snntorch', 'spikingjelly', 'onnx', 'onnxruntime', 'pytest'} & set(sys.modules)))"
    )
    assert run(code).strip() == "[]"


@pytest.mark.parametrize("name", sxq.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(sxq, name) is not None
    assert name in dir(sxq)


def test_public_names_are_cached() -> None:
    assert sxq.quantize_ is sxq.quantize_
    assert "quantize_" in vars(sxq)


def test_submodules_are_attributes_in_a_fresh_interpreter() -> None:
    code = (
        "import snn_extreme_quant as sxq\n"
        "print(sxq.quantizers.__name__, sxq.layers.Linear.__name__, sxq.config.Binary is sxq.Binary)"
    )
    assert run(code).split() == ["snn_extreme_quant.quantizers", "Linear", "True"]


@pytest.mark.parametrize("name", ["quantise_", "Quaternary", "_private", "__wrapped__"])
def test_unknown_names_raise_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'snn_extreme_quant' has no attribute '{name}'"):
        getattr(sxq, name)
    assert not hasattr(sxq, name)


def test_a_failing_import_inside_a_submodule_is_not_hidden() -> None:
    """A missing dependency must read as such, however the name is asked for; ``hasattr`` says no."""
    code = (
        "import sys; sys.modules['brevitas'] = None\n"
        "import snn_extreme_quant as sxq\n"
        "assert not hasattr(sxq, 'layers') and not hasattr(sxq, 'Linear')\n"
        "for code in ('sxq.layers', 'sxq.Linear', 'from snn_extreme_quant import Linear',\n"
        "             'from snn_extreme_quant import *', 'import snn_extreme_quant.layers'):\n"
        "    try:\n        exec(code)\n"
        "    except (AttributeError, ImportError) as error:\n"
        "        print(type(error).__name__, '|', error)"
    )
    attribute, name, imported, everything, module = run(code).splitlines()
    assert attribute.startswith(
        "UnavailableNameError | snn_extreme_quant.layers needs brevitas, which is not installed"
    )
    assert name.startswith("UnavailableNameError | snn_extreme_quant.Linear needs brevitas, which is not installed")
    assert imported.startswith("MissingDependencyError | snn_extreme_quant.Linear needs brevitas, which is not")
    assert "needs brevitas, which is not installed" in everything
    assert module.startswith("ModuleNotFoundError")


def test_dir_offers_modules_and_what_every_module_has() -> None:
    assert {"deploy", "models", "quantize_", "__name__", "__doc__"} <= set(dir(sxq))
    assert "IntegerOptions" in dir(sxq.deploy)


@pytest.mark.slow  # mypy reads the package anew
def test_a_type_checker_finds_misspelt_names() -> None:
    code = "import snn_extreme_quant as sxq\nsxq.quantize_, sxq.deploy.run_file, sxq.layers\nsxq.quantise_\n"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 'has no attribute "quantise_"' in done.stdout, done.stdout + done.stderr
    assert "run_file" not in done.stdout
    assert "layers" not in done.stdout.replace("quantise_", "")


def test_layers_import_downwards_only() -> None:
    """The contracts of import-linter in pyproject.toml hold."""
    tool = Path(sysconfig.get_path("scripts")) / ("lint-imports.exe" if os.name == "nt" else "lint-imports")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    done = subprocess.run(
        [tool, "--no-cache", "--no-logo"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_package_is_typed() -> None:
    for package in (
        "snn_extreme_quant",
        "plugins/snn_extreme_quant_snntorch",
        "plugins/snn_extreme_quant_spikingjelly",
    ):
        assert (ROOT / package / "py.typed").is_file(), f"{package} has no py.typed"
