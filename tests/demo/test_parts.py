import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from snn_extreme_quant import Ternary, quantize_
from snn_extreme_quant.demo import DemoReport, Row
from snn_extreme_quant.demo.data import over_time, shifted, split_digits
from snn_extreme_quant.demo.deployed import accuracy_by_steps
from snn_extreme_quant.demo.networks import recipes
from snn_extreme_quant.demo.report import print_report
from snn_extreme_quant.demo.training import STEPS, reproducible, train


def test_the_split_is_stratified_and_of_sixteenths():
    digits = split_digits()
    assert (len(digits.train_labels), len(digits.test_labels)) == (1257, 540)
    assert all(abs(int(n) - 54) <= 2 for n in digits.test_labels.bincount())
    assert torch.equal((digits.test_images * 16).round() / 16, digits.test_images)
    assert 0 <= digits.train_images.min() < digits.train_images.max() <= 1


def test_shifting_moves_by_at_most_a_pixel_and_repeats_with_the_seed():
    image = torch.zeros(500, 1, 8, 8)
    image[:, :, 4, 4] = 1
    moved = shifted(image, torch.Generator().manual_seed(0))
    assert torch.equal(moved, shifted(image, torch.Generator().manual_seed(0)))
    assert moved[:, :, 3:6, 3:6].sum() == 500
    assert 200 < moved[:, :, 4, 4].sum() < 400


def test_direct_coding_repeats_the_image():
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(over_time(images, 3), torch.stack([images] * 3))


def test_accuracy_by_steps_counts_spikes_so_far():
    spikes = np.zeros((3, 1, 2), np.float32)
    spikes[0, 0, 1] = 1
    spikes[1:, 0, 0] = 1
    assert accuracy_by_steps(spikes, np.array([0])) == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("index", [0, 1])
def test_training_repeats_with_the_seed(index):
    recipe = recipes()[0][index]
    digits = split_digits()
    few = replace(digits, train_images=digits.train_images[:64], train_labels=digits.train_labels[:64])
    losses: list[list[float]] = []
    for _ in range(2):
        losses.append([])
        with reproducible():
            network = recipe.build(seed=3)
            train(
                network, recipe.loss, few, epochs=2, rate=4e-3, seed=3, on_epoch=lambda loss, _: losses[-1].append(loss)
            )
    assert losses[0] == losses[1]
    assert not network.training


@pytest.mark.parametrize("index", [0, 1])
def test_every_weight_is_quantised_first_and_last_layer_included(index):
    network = recipes()[0][index].build(seed=0)
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    report = quantize_(network, Ternary())
    assert (len(report.replaced), report.left, report.quantized_weights) == (4, (), weights)


def test_a_framework_left_out_is_named(monkeypatch):
    monkeypatch.setenv("SXQ_PLUGINS", "snntorch")
    found, missing = recipes()
    assert [recipe.framework for recipe in found] == ["snntorch"]
    assert missing == ["spikingjelly is left out: by SXQ_PLUGINS=snntorch"]


@pytest.fixture
def report():
    rows = tuple(
        Row("spikingjelly", weights, 0.9876, 344_643, 13_590_720, 0, 0.1, 1.25) for weights in ("float", "binary")
    )
    return DemoReport(
        rows, 0, False, STEPS, 1257, 540, 84_896, 2, ("x is left out: [y]",), Path("out/sxq_demo.png"), 100.0
    )


def test_the_table_fits_80_columns(report):
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(report, console)
    text = console.export_text()
    assert "98.76% 344,643 13,590,720" in text
    assert "x is left out: [y]" in text
    assert "…" not in text


def test_a_spike_that_differs_counts_in_quantised_networks_only(report):
    wrong = [replace(row, spikes_different=1) for row in report.rows]
    assert report.exact
    assert replace(report, rows=(wrong[0], report.rows[1])).exact
    assert not replace(report, rows=(report.rows[0], wrong[1])).exact
