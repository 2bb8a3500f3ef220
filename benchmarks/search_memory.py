"""The memory of the released SpikeGPT's shape (216 M parameters) at uniform precisions, by arithmetic alone.

QSLM (2601.00679) searched that model. Its sizes count codes; ours count scales too.
"""

from __future__ import annotations

import torch
from record import parser, write

import snn_extreme_quant as sxq
from snn_extreme_quant.accounting import weight_memory, weight_shapes
from snn_extreme_quant.models import SpikeGPT, SpikeGPTConfig

#: Bits, and the sizes in MB that follow from the published reductions.
PUBLISHED = {16: 431, 14: 377, 12: 323, 10: 270, 8: 216, 6: 162, 4: 108}
LOWER = (3, 2, 1.58, 1)


def main() -> None:
    parser(__doc__).parse_args()
    with torch.device("meta"):
        shapes = weight_shapes(SpikeGPT(SpikeGPTConfig()))
    configs = sxq.precision_search.level_configs((*PUBLISHED, *LOWER))
    rows = []
    for bits, config in configs.items():
        memory = weight_memory(shapes, config)
        rows.append({
            "bits": bits, "published_megabytes": PUBLISHED.get(int(bits)) if bits == int(bits) else None,
            "megabytes": (memory.total - memory.scales) / 1e6, "scales_megabytes": memory.scales / 1e6,
            "reduction": memory.reduction,
        })  # fmt: skip
    parameters = sum(torch.Size(shape.shape).numel() for shape in shapes)
    write("search_memory", {"parameters": parameters, "float_megabytes": 4 * parameters / 1e6, "rows": rows})


if __name__ == "__main__":
    main()
