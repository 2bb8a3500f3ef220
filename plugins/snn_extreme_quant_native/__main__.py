"""``python -m snn_extreme_quant_native [FOLDER]``: compile the library, to ship it or to see why it fails."""

import sys

from snn_extreme_quant.errors import NativeLibraryError
from snn_extreme_quant_native.compilation import build, cached_library

if __name__ == "__main__":
    try:
        sys.stdout.write(f"{build(sys.argv[1]) if len(sys.argv) > 1 else cached_library()}\n")
    except NativeLibraryError as error:
        sys.exit(str(error))
