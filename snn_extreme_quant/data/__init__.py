"""Sentences with labels, from local files or the hub, as batches of tokens.

Names are loaded when first used: reading a table needs no torch, batches do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from snn_extreme_quant.lazy_names import lazily

if TYPE_CHECKING:
    from snn_extreme_quant.data.batches import Batch as Batch
    from snn_extreme_quant.data.batches import Sentences as Sentences
    from snn_extreme_quant.data.batches import batch_order as batch_order
    from snn_extreme_quant.data.batches import collate as collate
    from snn_extreme_quant.data.batches import pad as pad
    from snn_extreme_quant.data.plain_text import read_document as read_document
    from snn_extreme_quant.data.plain_text import read_text as read_text
    from snn_extreme_quant.data.tasks import GLUE as GLUE
    from snn_extreme_quant.data.tasks import Rows as Rows
    from snn_extreme_quant.data.tasks import Task as Task
    from snn_extreme_quant.data.tasks import read_rows as read_rows
    from snn_extreme_quant.data.tasks import read_table as read_table
    from snn_extreme_quant.data.tasks import split_rows as split_rows
    from snn_extreme_quant.data.text_tokens import TextTokens as TextTokens
    from snn_extreme_quant.data.windows import Windows as Windows
    from snn_extreme_quant.data.windows import rows_of as rows_of

#: Where each public name lives.
_HOME = {
    "GLUE": "tasks",
    "Batch": "batches",
    "Rows": "tasks",
    "Sentences": "batches",
    "Task": "tasks",
    "TextTokens": "text_tokens",
    "Windows": "windows",
    "batch_order": "batches",
    "collate": "batches",
    "pad": "batches",
    "read_document": "plain_text",
    "read_rows": "tasks",
    "read_table": "tasks",
    "read_text": "plain_text",
    "rows_of": "windows",
    "split_rows": "tasks",
}

__all__ = [
    "GLUE",
    "Batch",
    "Rows",
    "Sentences",
    "Task",
    "TextTokens",
    "Windows",
    "batch_order",
    "collate",
    "pad",
    "read_document",
    "read_rows",
    "read_table",
    "read_text",
    "rows_of",
    "split_rows",
]

__getattr__, __dir__ = lazily(__name__, _HOME)
