"""``sxq demo``: one small network in both frameworks, from float training to a verified file of 1-bit weights."""

from snn_extreme_quant.demo.pipeline import run_demo
from snn_extreme_quant.demo.report import DemoReport, Row, write_json

__all__ = ["DemoReport", "Row", "run_demo", "write_json"]
