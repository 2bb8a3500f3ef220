"""From float weights to integer codes and scales, and from codes to packed bytes.

``packing`` is pure numpy. ``core`` is what the schemes in ``binary``, ``ternary`` and ``uniform`` share, with their
``gradients`` and ``granularity``; ``injectors`` makes them available to Brevitas layers.
"""
