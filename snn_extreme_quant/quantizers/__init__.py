"""From float weights to integer codes and scales, and from codes to packed bytes.

``packing`` is pure numpy; ``core`` is torch; ``injectors`` makes the two available to Brevitas layers.
"""
