"""docs/plugins.md, run: the plugin printed there loads by entry point, passes the contract, and is used."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

USE = """
import tinyspike, torch
from torch import nn
import snn_extreme_quant as sxq
from snn_extreme_quant.frameworks import neurons_of, plugin_statuses

(status,) = [s for s in plugin_statuses() if s.name == "tinyspike"]
assert (status.state, status.origin, status.framework_version) == ("available", "tinyspike", "1.5"), status
net = nn.Sequential(nn.Linear(4, 3), nn.Sequential(tinyspike.Spike()))
report = sxq.quantize_(net, sxq.Ternary())
assert len(report.replaced) == 1
(neuron,) = neurons_of(net)
assert (neuron.name, neuron.framework.name) == ("1.0", "tinyspike")
net(torch.ones(2, 4))
sxq.reset(net)
assert net[1][0].v.shape == ()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put the files of docs/plugins.md, and the metadata an installer would write, into a folder."""
    folder = tmp_path_factory.mktemp("tinyspike")
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    files = re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["tinyspike.py", "sxq_tinyspike.py", "test_tinyspike.py"]
    for name, code in files:
        (folder / name).write_text(code, encoding="utf-8")
    (snippet,) = re.findall(r"```toml\n\[project\.entry-points\.\"(\S+)\"\]\n(.*?)```", text, re.DOTALL)
    metadata = folder / "tinyspike-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: tinyspike\nVersion: 1.5\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(f"[{snippet[0]}]\n{snippet[1].replace(chr(34), '')}", encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "plugins")])
    environment = {**os.environ, "PYTHONPATH": path, "SXQ_PLUGINS": "tinyspike"}
    environment.pop("PYTEST_ADDOPTS", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_plugin_is_short(installed: Path) -> None:
    lines = (installed / "sxq_tinyspike.py").read_text(encoding="utf-8").splitlines()
    assert sum(1 for line in lines if line.strip()) < 60


def test_the_plugin_is_found_and_used(installed: Path) -> None:
    done = run(installed, "-c", USE)
    assert done.returncode == 0, done.stderr


def test_the_plugin_passes_the_contract(installed: Path) -> None:
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tinyspike.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b3\d passed", done.stdout), done.stdout


def test_every_member_of_the_contract_is_documented() -> None:
    from snn_extreme_quant.frameworks.loader import _CONTRACT

    table = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8").split("Three rules")[0]
    for member in _CONTRACT:
        assert f"`{member}" in table, f"docs/plugins.md says nothing of {member}"


def test_the_orders_of_states_are_those_of_the_readings() -> None:
    import snntorch

    from snn_extreme_quant_snntorch import plugin

    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| snnTorch `(\w+)` \| `.*` \| `(\(.*?\))`(, `grouped=True`)? \|$", text, re.MULTILINE)
    options = {"alpha": 0.9, "beta": 0.5}
    makers = {
        "Synaptic": lambda: snntorch.Synaptic(**options),
        "RSynaptic": lambda: snntorch.RSynaptic(**options, linear_features=4),
        "DeltaLeaky": lambda: snntorch.DeltaLeaky(beta=0.5),
    }
    assert {name for name, _, _ in rows} == set(makers)
    for name, arguments, grouped in rows:
        reading = plugin.read_neuron(makers[name]())
        assert (repr(reading.arguments), reading.grouped) == (arguments.replace('"', "'"), bool(grouped))
