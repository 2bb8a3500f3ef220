"""The tables of README and docs, a module a page, from `benchmarks/results`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from . import (
    cli,
    deployment,
    integer,
    native,
    quantisers,
    readme,
    runtimes,
    search,
    speed,
    spike_gpt,
    spiking_bert,
    synchronous,
)

#: By page, its tables by the name between their markers.
PAGES: dict[str, Mapping[str, Callable[[], str]]] = {
    "README.md": readme.TABLES,
    "docs/cli.md": cli.TABLES,
    "docs/deployment.md": deployment.TABLES,
    "docs/integer.md": integer.TABLES,
    "docs/native.md": native.TABLES,
    "docs/runtimes.md": runtimes.TABLES,
    "docs/search.md": search.TABLES,
    "docs/quantisers.md": quantisers.TABLES,
    "docs/synchronous.md": synchronous.TABLES,
    "docs/speed.md": speed.TABLES,
    "docs/spike_gpt.md": spike_gpt.TABLES,
    "docs/spiking_bert.md": spiking_bert.TABLES,
}
