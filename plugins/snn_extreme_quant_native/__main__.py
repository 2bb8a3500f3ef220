"""``python -m snn_extreme_quant_native [FOLDER]``: compile the library, to ship it or to see why it fails."""

import argparse
import sys
from pathlib import Path

from snn_extreme_quant.errors import NativeLibraryError
from snn_extreme_quant_native.compilation import build, cached_library

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m snn_extreme_quant_native",
        description="Compile the library of native kernels, and print where it lies.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, help="where to write it, to ship it; by default it goes into the cache"
    )
    folder = parser.parse_args().folder
    try:
        sys.stdout.write(f"{cached_library() if folder is None else build(folder)}\n")
    except NativeLibraryError as error:
        sys.exit(str(error))
