r"""What an integrate-and-fire neuron computes, written down so that it can be carried over bit for bit.

Frameworks agree on the idea of a leaky integrate-and-fire neuron and differ in everything that decides a spike:
whether reaching the threshold is enough, whether the reset comes in the same step or in the next, whether the input
leaks too, and in which order floats are added. :class:`NeuronSpec` names each choice. It holds no numbers; those are
the *parameters*, float32 tensors of any shape that broadcasts to one step's input.

One step takes the membrane potential :math:`v_{t-1}` and the input current :math:`x_t`, and gives a spike
:math:`s_t` and :math:`v_t`. :math:`[\cdot]` is 1 where true, else 0; operations are in float32 in the order written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from snn_extreme_quant.errors import ConfigError

__all__ = ["Charge", "Comparison", "NeuronSpec", "Reset", "Timing"]

Charge = Literal["leak", "lapicque", "integrate", "relax_input", "relax"]
Comparison = Literal["gt", "ge"]
Reset = Literal["subtract", "zero", "cancel", "value", "none"]
Timing = Literal["same_step", "delayed", "compensated"]

#: The parameters that each way of charging needs, in the order that operators take them.
_CHARGE_PARAMETERS: dict[str, tuple[str, ...]] = {
    "leak": ("decay",),
    "lapicque": ("resistance", "inverse_rc", "time_step", "decay"),
    "integrate": (),
    "relax_input": ("rest", "tau"),
    "relax": ("rest", "tau"),
}


@dataclass(frozen=True)
class NeuronSpec:
    r"""The choices that define an integrate-and-fire neuron.

    ``charge``, the potential before firing, :math:`h = c(v, x)`:

    ==============  =======================================================  =======================================
    ``leak``        :math:`\beta v + x`                                      snnTorch ``Leaky``
    ``lapicque``    :math:`((x R)\,\tfrac{1}{RC})\,\Delta t + \beta v`       snnTorch ``Lapicque``
    ``integrate``   :math:`v + x`                                            SpikingJelly ``IFNode``
    ``relax_input`` :math:`v + (x - (v - v_0)) / \tau`                       SpikingJelly ``LIFNode``
    ``relax``       :math:`v - (v - v_0) / \tau + x`                         the same with ``decay_input=False``
    ==============  =======================================================  =======================================

    ``comparison``: a spike is :math:`s = [h > \theta]` (``gt``) or :math:`[h \ge \theta]` (``ge``).

    ``timing`` and ``reset``. ``same_step``: :math:`v_t` is, by ``reset``,
    ``subtract`` :math:`h - s\theta`; ``value`` :math:`s v_r + (1 - s) h`; ``zero`` :math:`(1 - s) h`;
    ``none`` :math:`h`.
    ``delayed``: with :math:`r = [v_{t-1} > \theta]` (or :math:`\ge`), :math:`v_t = h` and :math:`h` is
    ``subtract`` :math:`c(v, x) - r\theta`; ``zero`` :math:`c((1 - r) v, x)`; ``cancel`` :math:`c(v, x) - r\,c(v, x)`;
    ``none`` :math:`c(v, x)`. ``compensated`` (snnTorch's ``reset_delay=False``): as ``delayed``, then with
    :math:`d = s - r`, ``subtract`` :math:`v_t = h - d\theta`; ``zero`` :math:`v_t = h - d h`; ``none`` :math:`v_t = h`.

    ``graded``: the output is :math:`s \cdot g` instead of :math:`s`, with a parameter ``amplitude`` :math:`g`.

    Raises:
        ConfigError: a choice is unknown, or reset and timing do not go together.

    Example:
        >>> NeuronSpec(charge="leak", comparison="gt", reset="subtract", timing="delayed").parameter_names
        ('threshold', 'decay')
    """

    charge: Charge
    comparison: Comparison
    reset: Reset
    timing: Timing
    graded: bool = False

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        for field, choices in (("charge", Charge), ("comparison", Comparison), ("reset", Reset), ("timing", Timing)):
            value, known = getattr(self, field), get_args(choices)
            if value not in known:
                raise ConfigError(f"NeuronSpec({field}={value!r}): use one of {', '.join(known)}.")
        legal = {
            "same_step": ("subtract", "zero", "value", "none"),
            "delayed": ("subtract", "zero", "cancel", "none"),
            "compensated": ("subtract", "zero", "none"),
        }[self.timing]
        if self.reset not in legal:
            raise ConfigError(f"NeuronSpec: timing={self.timing!r} goes with reset in {legal}, not {self.reset!r}.")

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the parameters this neuron needs, in the order that operators take them."""
        names: tuple[str, ...] = ("threshold", *_CHARGE_PARAMETERS[self.charge])
        if self.reset == "value":
            names += ("v_reset",)
        if self.graded:
            names += ("amplitude",)
        return names

    @property
    def operator(self) -> str:
        """The name of this neuron's operator in the domain ``snn.extreme_quant``.

        Example:
            >>> NeuronSpec("relax_input", "ge", "value", "same_step").operator
            'LIF_relax_input_ge_value_same_step'
        """
        name = f"LIF_{self.charge}_{self.comparison}_{self.reset}_{self.timing}"
        return name + "_graded" if self.graded else name

    @classmethod
    def from_operator(cls, name: str) -> NeuronSpec:
        """Return the spec whose :attr:`operator` is ``name``; raises :class:`ConfigError` if there is none."""
        for charge in get_args(Charge):
            for comparison in get_args(Comparison):
                prefix = f"LIF_{charge}_{comparison}_"
                if not name.startswith(prefix):
                    continue
                rest = name[len(prefix) :]
                graded = rest.endswith("_graded")
                reset, _, timing = rest.removesuffix("_graded").partition("_")
                return cls(charge, comparison, reset, timing, graded)  # type: ignore[arg-type]
        raise ConfigError(f"{name!r} is not the operator of a neuron.")

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``NeuronSpec.from_dict`` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NeuronSpec:
        """Build a spec from :meth:`to_dict`'s dictionary; raises :class:`ConfigError` on unknown or missing fields."""
        known = {f.name for f in fields(cls)}
        for name in sorted(set(data) ^ known):
            what = f"NeuronSpec has no field {name!r}." if name in data else f"{name!r} of NeuronSpec is missing."
            raise ConfigError(what)
        return cls(**data)
