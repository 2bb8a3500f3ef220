"""The command line: ``sxq``, one file per command."""

import errno
import sys
import traceback

from snn_extreme_quant.cli.application import app
from snn_extreme_quant.cli.streams import note, own_stdout, plain_warnings

__all__ = ["app", "main"]


def main() -> None:
    """Run ``sxq``; an error that nobody foresaw shows where it is, and is no answer: exit status 2."""
    with own_stdout(), plain_warnings():
        try:
            app(prog_name="sxq")
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                note("error", "standard output cannot be written: no space is left where it goes.")
            else:
                traceback.print_exc()
            sys.exit(2)
