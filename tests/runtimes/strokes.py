"""Digits as people draw them: strokes of points ``[x, y]`` in a square of side 1, y downwards."""

from __future__ import annotations

import math

__all__ = ["DIGITS"]

Point = list[float]


def _arc(x: float, y: float, wide: float, high: float, start: float, end: float) -> list[Point]:
    """Points of an ellipse; angles in degrees, 0 to the right, 90 downwards."""
    angles = [math.radians(start + (end - start) * i / 12) for i in range(13)]
    return [[x + wide * math.cos(a), y + high * math.sin(a)] for a in angles]


DIGITS: list[list[list[Point]]] = [
    [_arc(0.5, 0.5, 0.2, 0.35, -90, 270)],
    [[[0.38, 0.3], [0.52, 0.15], [0.52, 0.85]]],
    [[*_arc(0.5, 0.32, 0.2, 0.18, -170, 40), [0.32, 0.82], [0.72, 0.82]]],
    [[*_arc(0.47, 0.32, 0.2, 0.17, -150, 90), *_arc(0.47, 0.67, 0.22, 0.18, -90, 150)]],
    [[[0.52, 0.12], [0.3, 0.58], [0.74, 0.58]], [[0.6, 0.38], [0.56, 0.9]]],
    [[[0.7, 0.15], [0.38, 0.15], [0.35, 0.45], *_arc(0.48, 0.64, 0.21, 0.2, -110, 140)]],
    [[[0.62, 0.12], [0.45, 0.3], [0.36, 0.55], *_arc(0.5, 0.68, 0.16, 0.18, -180, 180)]],
    [[[0.3, 0.17], [0.7, 0.17], [0.45, 0.87]], [[0.36, 0.5], [0.66, 0.5]]],
    [[*_arc(0.5, 0.32, 0.15, 0.17, 60, 420), *_arc(0.5, 0.67, 0.18, 0.19, -70, 290)]],
    [[*_arc(0.5, 0.33, 0.17, 0.18, 0, 360), [0.67, 0.33], [0.66, 0.6], [0.56, 0.88]]],
]
