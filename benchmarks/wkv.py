"""The sums of SRWKV over a text, forward and backward: all tokens at once, token by token, and plain causal attention.

Interleaved in one process, one thread: processor time of this thread, the median of several rounds. "loop" is the
published recurrence with its running maximum, a token at a time under autograd; "short loop" has the
exponentials before the loop and no maximum. Attention is torch's
`scaled_dot_product_attention` of the same width, heads of 64.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from record import parser, write
from torch import Tensor

from snn_extreme_quant.models.gpt.wkv import weighted_average

SHAPES = ((1024, 1, 256), (1024, 8, 256), (1024, 1, 768))
LENGTHS = (256, 512, 1024, 2048, 4096)
ROUNDS = 5
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def at_once(decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    zero = torch.zeros_like(key[0])
    return weighted_average(decay, first, key, value, zero, zero)[0]


def loop(decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    w, found = -decay.exp(), []
    a, b, p = torch.zeros_like(key[0]), torch.zeros_like(key[0]), torch.full_like(key[0], -1e30)
    for k, v in zip(key, value, strict=True):
        most = torch.maximum(p, first + k)
        old, new = (p - most).exp(), (first + k - most).exp()
        found.append((old * a + new * v) / (old * b + new))
        most = torch.maximum(p + w, k)
        old, new = (p + w - most).exp(), (k - most).exp()
        a, b, p = old * a + new * v, old * b + new, most
    return torch.stack(found)


def short_loop(decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    d, found, weights = (-decay.exp()).exp(), [], key.exp()
    now = first.exp() * weights
    a = b = torch.zeros_like(key[0])
    for e, n, v in zip(weights, now, value, strict=True):
        found.append((a + n * v) / (b + n))
        a, b = d * a + e * v, d * b + e
    return torch.stack(found)


def attention(decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    del decay, first
    k, v = (x.permute(1, 0, 2).unflatten(2, (-1, 64)).transpose(1, 2) for x in (key, value))
    return F.scaled_dot_product_attention(k, k, v, is_causal=True)


WAYS: dict[str, Callable[..., Tensor]] = {
    "at_once": at_once, "loop": loop, "short_loop": short_loop, "attention": attention,
}  # fmt: skip


def inputs(tokens: int, batch: int, width: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    decay, first = (torch.randn(width, generator=generator).requires_grad_() for _ in range(2))
    key, value = (torch.randn(tokens, batch, width, generator=generator).requires_grad_() for _ in range(2))
    return decay, first, key, value


def seconds(way: Callable[..., Tensor], given: Inputs) -> float:
    start = time.thread_time()
    way(*given).square().sum().backward()
    taken = time.thread_time() - start
    for tensor in given:
        tensor.grad = None
    return taken


def measured(shape: tuple[int, int, int], ways: dict[str, Callable[..., Tensor]], rounds: int) -> dict[str, float]:
    given = inputs(*shape)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first one warms up
        for name, way in ways.items():
            taken = seconds(way, given)
            if number:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def difference() -> float:
    """Return the largest difference to the published recurrence in float64."""
    given = inputs(1024, 1, 64)
    exact = loop(*(tensor.detach().double() for tensor in given))
    return float((at_once(*given).double() - exact).abs().max())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--quick", action="store_true", help="short texts alone; nothing is kept")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    rows = []
    for length, batch, width in SHAPES:
        tokens = 64 if chosen.quick else length
        median = measured((tokens, batch, width), WAYS, chosen.rounds)
        ratios = {f"{name}_ratio": round(median[name] / median["at_once"], 2) for name in WAYS if name != "at_once"}
        ms = round(1e3 * median["at_once"], 2)
        rows.append({"tokens": tokens, "batch": batch, "width": width, "at_once_ms": ms, **ratios})
    ways = {"at_once": at_once, "attention": attention}
    growth = []
    for tokens in LENGTHS[:2] if chosen.quick else LENGTHS:
        median = measured((tokens, 1, 256), ways, chosen.rounds)
        growth.append(
            {"tokens": tokens, **{f"{name}_us_a_token": round(1e6 * median[name] / tokens, 2) for name in ways}}
        )
    result = {"rounds": chosen.rounds, "largest_difference": difference(), "rows": rows, "growth": growth}
    write("wkv", result, keep=not chosen.quick)


if __name__ == "__main__":
    main()
