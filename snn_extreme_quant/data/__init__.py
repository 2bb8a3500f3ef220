"""Sentences with labels, from local files or the hub, as batches of tokens."""

from snn_extreme_quant.data.batches import Batch, Sentences, batch_order, collate
from snn_extreme_quant.data.tasks import GLUE, Rows, Task, read_rows

__all__ = ["GLUE", "Batch", "Rows", "Sentences", "Task", "batch_order", "collate", "read_rows"]
