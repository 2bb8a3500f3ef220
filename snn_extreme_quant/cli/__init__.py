"""The command line: ``sxq``, one file per command."""

from snn_extreme_quant.cli.application import app

__all__ = ["app", "main"]


def main() -> None:
    """Run ``sxq``."""
    app(prog_name="sxq")
