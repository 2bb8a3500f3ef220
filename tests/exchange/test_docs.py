"""docs/nir.md: its example runs, its table is that of the results, and it names every node and charge."""

import json
import re
from pathlib import Path

import pytest

from snn_extreme_quant.exchange.layers import _READERS as LAYERS
from snn_extreme_quant.exchange.neurons import _READERS as NEURONS
from snn_extreme_quant.exchange.neurons import NODES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "nir.md").read_text(encoding="utf-8")
RESULT = json.loads((ROOT / "benchmarks" / "results" / "nir_readers.json").read_text(encoding="utf-8"))


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/nir.md", "exec"), {})
    assert (tmp_path / "net.nir").is_file()


def test_the_table_is_that_of_the_results() -> None:
    for row in RESULT["rows"]:
        counts = [row[key] for key in ("spikes", "from_nir", "snntorch", "spikingjelly")]
        cells = [f"`{row['neuron']}`", *(f"{n:,}" if isinstance(n, int) else n for n in counts)]
        assert f"| {' | '.join(cells)} |" in TEXT
    assert f"{RESULT['rows'][0]['values']:,} values a row" in TEXT
    assert all(row["from_nir"] == 0 for row in RESULT["rows"])


@pytest.mark.parametrize("name", [*LAYERS, *NEURONS, *NODES])
def test_every_node_and_charge_is_named(name: str) -> None:
    assert f"`{name}`" in TEXT
