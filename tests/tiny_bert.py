"""A BERT small enough for tests, with its tokenizer, as transformers would save them, and a task that it can learn."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ("good", "fine", "great", "bad", "poor", "dull", "film", "a", "the", "plot", "cast", "is", "was", "and", "it")


def save_teacher(folder: Path, classes: int = 2, layers: int = 2, classify: bool = True, **options: object) -> Path:
    """Save a random BERT whose activations are of the size of a trained one's."""
    from transformers import BertConfig, BertForSequenceClassification, BertModel, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=24, num_labels=classes, initializer_range=0.2, **options,
    )  # fmt: skip
    torch.manual_seed(1)
    model = BertForSequenceClassification(config) if classify else BertModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_task(folder: Path, train: int = 96, dev: int = 24) -> Path:
    """Save sentences that are good or bad."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for name, rows in (("train", train), ("dev", dev)):
        lines = ["sentence\tlabel"]
        for row in range(rows):
            label = row % 2
            filler = [WORDS[6 + int(i)] for i in torch.randint(9, (1 + row % 5,), generator=generator)]
            lines.append(" ".join([*filler, WORDS[int(torch.randint(3, (1,), generator=generator)) + 3 * (1 - label)]]))
            lines[-1] += f"\t{label}"
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
