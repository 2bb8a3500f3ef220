"""The neurons of the synchronous schedule in standard ONNX operators."""

from __future__ import annotations

__all__ = ["is_synchronous", "synchronous_operators", "synchronous_text"]

#: The number of spikes before it is limited: floor((a / threshold) * T + 1/2). As T is a power of two, a division by
#: threshold / T, which a runtime computes when it loads the file, gives the same bits.
_COUNT = [
    "steps = Constant <value_float: float = @steps> ()",
    "half = Constant <value_float: float = 0.5> ()",
    "a_step = Div (threshold, steps)",
    "scaled = Div (x, a_step)",
    "raised = Add (scaled, half)",
    "whole = Floor (raised)",
]
_LIMITED = ["lowest = Constant <value_float: float = @lowest> ()", "n = Clip (whole, lowest, steps)"]
_BODIES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "SynchronousRates": (
        ["steps", "lowest", "inverse_steps"],
        ["x", "threshold"],
        [*_COUNT, *_LIMITED, "inverse = Constant <value_float: float = @inverse_steps> ()", "y = Mul (n, inverse)"],
    ),
    # Of numbers that are not negative the cast takes the whole part.
    "SynchronousCounts": (
        ["steps"],
        ["x", "threshold"],
        [
            *_COUNT[:-1],
            "zero = Constant <value_float: float = 0.0> ()",
            "n = Clip (raised, zero, steps)",
            "y = Cast <to: int = 2> (n)",
        ],
    ),
    "SynchronousCounts_signed": (
        ["steps", "lowest"],
        ["x", "threshold"],
        [*_COUNT, *_LIMITED, "shifted = Add (n, steps)", "y = Cast <to: int = 2> (shifted)"],
    ),
    "SynchronousFolded": (
        ["top"],
        ["x", "gain", "offset"],
        [
            "zero = Constant <value_float: float = 0.0> ()",
            "top = Constant <value_float: float = @top> ()",
            "sums = Cast <to: int = 1> (x)",
            "product = Mul (sums, gain)",
            "sum = Add (product, offset)",
            "n = Clip (sum, zero, top)",
            "y = Cast <to: int = 2> (n)",
        ],
    ),
    # Rounds, adds and limits in one pass.
    "SynchronousRounded": (
        ["zero_point", "top"],
        ["x"],
        [
            "one = Constant <value_float: float = 1.0> ()",
            "zero_i = Constant <value_int: int = @zero_point> ()",
            "zero_point = Cast <to: int = 2> (zero_i)",
            "least = Constant <value: tensor = uint8 {0}> ()",
            "top_i = Constant <value_int: int = @top> ()",
            "top = Cast <to: int = 2> (top_i)",
            "n = QuantizeLinear (x, one, zero_point)",
            "y = Clip (n, least, top)",
        ],
    ),
    "SynchronousSpikes": (
        ["steps", "lowest"],
        ["x", "threshold"],
        [
            *_COUNT,
            *_LIMITED,
            "zero = Constant <value_float: float = 0.0> ()",
            "one = Constant <value_float: float = 1.0> ()",
            "front = Constant <value_ints: ints = [0]> ()",
            "times = Range (zero, steps, one)",
            "step_shape = Shape (x)",
            "rank = Shape (step_shape)",
            "ones = ConstantOfShape <value: tensor = int64[1] {1}> (rank)",
            "length = Shape (times)",
            "times_shape = Concat <axis: int = 0> (length, ones)",
            "t = Reshape (times, times_shape)",
            "n_u = Unsqueeze (n, front)",
            "up_b = Greater (n_u, t)",
            "up = Cast <to: int = 1> (up_b)",
            "minus_n = Neg (n_u)",
            "down_b = Greater (minus_n, t)",
            "down = Cast <to: int = 1> (down_b)",
            "y = Sub (up, down)",
        ],
    ),
}


def synchronous_operators() -> list[str]:
    """Return the names of all layers of synchronous neurons.

    Example:
        >>> "SynchronousFolded" in synchronous_operators()
        True
    """
    return list(_BODIES)


def is_synchronous(operator: str) -> bool:
    """Whether an operator of our domain is a layer of synchronous neurons.

    Example:
        >>> is_synchronous("SynchronousCounts"), is_synchronous("TernaryLinear")
        (True, False)
    """
    return operator in _BODIES


def synchronous_text(operator: str) -> str:
    """Return the text of the ONNX function."""
    attributes, inputs, lines = _BODIES[operator]
    return f"{operator} <{', '.join(attributes)}> ({', '.join(inputs)}) => (y) " + "{\n  " + "\n  ".join(lines) + "\n}"
