"""The demo with three seeds: where the README's table comes from. Takes about five minutes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from record import parser, write

SEEDS = (0, 1, 2)


def main() -> None:
    parser(__doc__).parse_args()
    runs = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.json"
            command = [str(Path(sys.executable).with_name("sxq")), "demo", "--seed", str(seed), "--out", folder]
            subprocess.run([*command, "--json", str(path)], check=True, stdout=subprocess.DEVNULL)
            result = json.loads(path.read_text())
            runs.append({"seed": seed, "seconds": result["seconds"], "rows": result["rows"]})
    write("demo_table", {"runs": runs})


if __name__ == "__main__":
    main()
