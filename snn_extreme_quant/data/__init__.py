"""Sentences with labels, from local files or the hub, as batches of tokens."""

from snn_extreme_quant.data.batches import Batch, Sentences, batch_order, collate, pad
from snn_extreme_quant.data.plain_text import read_text
from snn_extreme_quant.data.tasks import GLUE, Rows, Task, read_rows

__all__ = ["GLUE", "Batch", "Rows", "Sentences", "Task", "batch_order", "collate", "pad", "read_rows", "read_text"]
