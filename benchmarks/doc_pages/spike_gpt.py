"""The table of docs/spike_gpt.md."""

from __future__ import annotations

from .results import load, table


def wkv() -> str:
    result = load("wkv")
    head = ["tokens, batch, width", "at once", "loop over tokens", "the same, shortest", "causal attention"]
    rows = [
        [
            f"{row['tokens']}, {row['batch']}, {row['width']}",
            f"{row['at_once_ms']:.0f} ms",
            *(f"{row[name + '_ratio']:.1f}x" for name in ("loop", "short_loop", "attention")),
        ]
        for row in result["rows"]
    ]
    growth = ["width 256, batch 1", *(f"{row['tokens']} tokens" for row in result["growth"])]
    times = [
        [name, *(f"{row[key + '_us_a_token']:.0f} us" for row in result["growth"])]
        for name, key in (("at once, a token", "at_once"), ("causal attention, a token", "attention"))
    ]
    machine = result["machine"]
    return (
        table(head, rows)
        + "\n\n"
        + table(growth, times)
        + "\n\nForward and backward, one thread, processor time, the median of interleaved rounds;"
        f" torch {machine['versions']['torch']}, {machine['processor']}.\nThe loop is the published recurrence with its"
        " running maximum under autograd; the shortest has its exponentials before\nthe loop and no maximum. Largest"
        f" difference to the published one in float64: {result['largest_difference']:.1g}"
        "\n(`benchmarks/results/wkv.json`)."
    )


#: By the name between their markers.
TABLES = {"wkv table": wkv}
