"""How much of a shipped SpikeGPT's file differs from the model in torch, on stock onnxruntime and with native kernels.

    python benchmarks/spike_gpt_verified.py [--model tinyshakespeare-ternary] [--tokens 1000]

Both generate from one prompt, token by token, as `sxq verify FOLDER FILE --tokens N --native` lets them.
"""

from __future__ import annotations

from typing import Any

import torch
from record import parser, write

import snn_extreme_quant as sxq
from snn_extreme_quant.models import zoo
from snn_extreme_quant.models.gpt.files import load_language_model

PROMPT = "ROMEO:"


def compared(name: str, tokens: int, native: bool) -> dict[str, Any]:
    """Return what was compared, and how much of it differs."""
    folder = zoo.path(name)
    model, words = load_language_model(folder)
    prompt = torch.from_numpy(words.encode(PROMPT)).long()[None]
    report = sxq.verify(model, folder / "model.onnx", prompt, tokens=tokens, native=native)
    text = report.text
    assert text is not None
    return {
        "runtime": report.runtime,
        "tokens": text.tokens,
        "different_tokens": text.different_tokens,
        "spikes": report.spikes_compared,
        "different_spikes": report.spikes_different,
        "values": text.values + text.whole_values,
        "different_values": text.different_values + text.different_whole_values,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--model", default="tinyshakespeare-ternary")
    options.add_argument("--tokens", type=int, default=1000)
    given = options.parse_args()
    rows = [compared(given.model, given.tokens, native) for native in (False, True)]
    write("spike_gpt_verified", {"model": given.model, "prompt": PROMPT, "rows": rows})


if __name__ == "__main__":
    main()
