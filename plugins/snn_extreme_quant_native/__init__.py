"""Native kernels for the operators of domain ``snn.extreme_quant``, as a custom-operator library of onnxruntime.

The library is C; it is compiled once, by the system's compiler, when it is first asked for. Without one everything
still runs, on the bodies that each exported file carries.
"""

from snn_extreme_quant_native.compilation import build, cached_library
from snn_extreme_quant_native.library import NativeLibrary, is_compiled, load

__all__ = ["NativeLibrary", "build", "cached_library", "is_compiled", "load"]
