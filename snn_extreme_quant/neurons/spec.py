r"""What an integrate-and-fire neuron computes, written down so that it can be carried over bit for bit.

Frameworks agree on the idea of a leaky integrate-and-fire neuron and differ in everything that decides a spike:
whether reaching the threshold is enough, whether the reset comes in the same step or in the next, whether the input
leaks too, and in which order floats are added. :class:`NeuronSpec` names each choice. It holds no numbers; those are
the *parameters*, float32 tensors of any shape that broadcasts to one step's input.

One step takes the state (at least the membrane potential :math:`v_{t-1}`) and the input current :math:`x_t`, and gives
a spike :math:`s_t` and the new state. :math:`[\cdot]` is 1 where true, else 0; operations are in float32 in the order
written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from snn_extreme_quant.errors import ConfigError

__all__ = ["Charge", "Comparison", "Feedback", "Fire", "NeuronSpec", "Reset", "Timing"]

Charge = Literal["leak", "lapicque", "integrate", "relax_input", "relax", "rate_input", "rate", "synaptic", "alpha"]
Comparison = Literal["gt", "ge"]
Reset = Literal["subtract", "zero", "cancel", "value", "none"]
Timing = Literal["same_step", "delayed", "compensated"]
Fire = Literal["spike", "ternary", "count", "change"]
Feedback = Literal["none", "elementwise", "linear", "conv"]

#: The parameters that each way of charging needs, in the order that operators take them.
_CHARGE_PARAMETERS: dict[str, tuple[str, ...]] = {
    "leak": ("decay",),
    "lapicque": ("resistance", "inverse_rc", "time_step", "decay"),
    "integrate": (),
    "relax_input": ("rest", "tau"),
    "relax": ("rest", "tau"),
    "rate_input": ("rest", "rate"),
    "rate": ("rest", "rate"),
    "synaptic": ("decay", "current_decay"),
    "alpha": ("excitation_decay", "inhibition_decay", "gain"),
}
#: What a neuron remembers besides its membrane potential ``v``.
_CHARGE_STATES: dict[str, tuple[str, ...]] = {"synaptic": ("i",), "alpha": ("i_exc", "i_inh")}
_RESETS: dict[str, tuple[str, ...]] = {
    "same_step": ("subtract", "zero", "value", "none"),
    "delayed": ("subtract", "zero", "cancel", "none"),
    "compensated": ("subtract", "zero", "cancel", "none"),
}
_FED = "_fed_"


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
    ``rate_input``  :math:`v + (x - (v - v_0))\,\rho`                        SpikingJelly ``ParametricLIFNode``
    ``rate``        :math:`v - (v - v_0)\,\rho + x`                          the same with ``decay_input=False``
    ``synaptic``    :math:`\beta v + i_t,\; i_t = \alpha i_{t-1} + x`        snnTorch ``Synaptic``, ``CUBALIFNode``
    ``alpha``       :math:`\tau(e_t + f_t)`, see below                       snnTorch ``Alpha``
    ==============  =======================================================  =======================================

    ``alpha`` has an exciting and an inhibiting current, :math:`e_t = \alpha e_{t-1} + x` and
    :math:`f_t = \beta f_{t-1} - x`, and no potential that leaks; its reset works on all three:
    ``subtract`` :math:`h = \tau(e_t + f_t) + r f_{t-1}`, :math:`e_t - r\theta`, :math:`f_t - r f_t`;
    ``cancel`` takes :math:`r` times each off itself.

    ``fire``, with ``comparison`` :math:`\triangleright` being > (``gt``) or :math:`\ge` (``ge``):
    ``spike`` :math:`s = [h \triangleright \theta]`;
    ``ternary`` :math:`s = [h \triangleright \theta] - [-h \triangleright \theta]`;
    ``count`` :math:`s = \mathrm{round}(\mathrm{clip}(h / \theta, 0, D))` with the parameter ``levels`` :math:`D`;
    ``change`` :math:`s = [|h - v_{t-1}| \triangleright \theta]`.

    ``timing`` and ``reset``. ``same_step``: :math:`v_t` is, by ``reset``,
    ``subtract`` :math:`h - s\theta`; ``value`` :math:`|s| v_r + (1 - |s|) h`; ``zero`` :math:`(1 - |s|) h`;
    ``none`` :math:`h`.
    ``delayed``: with :math:`r = [v_{t-1} > \theta]` (or :math:`\ge`), :math:`v_t = h` and :math:`h` is
    ``subtract`` :math:`c(v, x) - r\theta`; ``zero`` :math:`c((1 - r) v, x)`; ``cancel`` :math:`c(v, x) - r\,c(v, x)`;
    ``none`` :math:`c(v, x)`. ``compensated`` (snnTorch's ``reset_delay=False``): as ``delayed``, then with
    :math:`d = s - r`, ``subtract`` :math:`v_t = h - d\theta`; ``zero`` and ``cancel`` :math:`v_t = h - d h`;
    ``none`` :math:`v_t = h`.

    ``graded``: the output is :math:`s \cdot g` instead of :math:`s`, with a parameter ``amplitude`` :math:`g`.

    ``feedback``: the layer's own last spikes :math:`s_{t-1}` are a second current, added after the first
    (:math:`\beta v + x + R(s_{t-1})`; for ``synaptic`` :math:`\alpha i + x + R(s_{t-1})`). :math:`R` multiplies by the
    parameter ``feedback`` (``elementwise``) or is a ``linear`` or ``conv`` layer, which is no parameter.

    Raises:
        ConfigError: a choice is unknown, or choices do not go together.

    Example:
        >>> NeuronSpec(charge="leak", comparison="gt", reset="subtract", timing="delayed").parameter_names
        ('threshold', 'decay')
    """

    charge: Charge
    comparison: Comparison
    reset: Reset
    timing: Timing
    graded: bool = False
    fire: Fire = "spike"
    feedback: Feedback = "none"

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        for field, choices in _CHOICES.items():
            value, known = getattr(self, field), get_args(choices)
            if value not in known:
                raise ConfigError(f"NeuronSpec({field}={value!r}): use one of {', '.join(known)}.")
        if type(self.graded) is not bool:
            raise ConfigError(f"NeuronSpec(graded={self.graded!r}): use True or False.")
        legal = _RESETS[self.timing]
        if self.reset not in legal:
            raise ConfigError(f"NeuronSpec: timing={self.timing!r} goes with reset in {legal}, not {self.reset!r}.")
        if self.fire != "spike" and (self.timing != "same_step" or self.graded):
            raise ConfigError(f"NeuronSpec: fire={self.fire!r} goes with timing='same_step' and graded=False alone.")
        if (self.fire == "count" and self.reset not in ("subtract", "none")) or (
            self.fire == "change" and self.reset != "none"
        ):
            raise ConfigError(f"NeuronSpec: fire={self.fire!r} does not go with reset={self.reset!r}.")
        if self.charge == "alpha" and (self.timing != "delayed" or self.reset == "zero"):
            raise ConfigError("NeuronSpec: charge='alpha' goes with timing='delayed' and subtract, cancel or none.")
        if self.feedback != "none" and (self.charge not in ("leak", "synaptic") or self.graded or self.fire != "spike"):
            raise ConfigError("NeuronSpec: feedback goes with charge 'leak' or 'synaptic' and plain spikes alone.")

    @property
    def states(self) -> tuple[str, ...]:
        """What is carried from step to step: ``v``, currents, and with feedback the last spikes ``s``.

        Example:
            >>> NeuronSpec("synaptic", "gt", "subtract", "delayed", feedback="linear").states
            ('v', 'i', 's')
        """
        names = ("v", *_CHARGE_STATES.get(self.charge, ()))
        return names if self.feedback == "none" else (*names, "s")

    @property
    def outputs(self) -> tuple[str, ...]:
        """What one step gives: the spikes ``s``, then the states but ``s``."""
        return ("s", *(name for name in self.states if name != "s"))

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the parameters this neuron needs, in the order that operators take them."""
        names: tuple[str, ...] = ("threshold", *_CHARGE_PARAMETERS[self.charge])
        if self.reset == "value":
            names += ("v_reset",)
        if self.graded:
            names += ("amplitude",)
        if self.fire == "count":
            names += ("levels",)
        if self.feedback == "elementwise":
            names += ("feedback",)
        return names

    @property
    def operator(self) -> str:
        """The name of this neuron's operator in the domain ``snn.extreme_quant``.

        Example:
            >>> NeuronSpec("relax_input", "ge", "value", "same_step").operator
            'LIF_relax_input_ge_value_same_step'
        """
        name = f"LIF_{self.charge}_{self.comparison}_{self.reset}_{self.timing}"
        name += "" if self.fire == "spike" else f"_{self.fire}"
        name += "_graded" if self.graded else ""
        return name if self.feedback == "none" else name + _FED + self.feedback

    @classmethod
    def from_operator(cls, name: str) -> NeuronSpec:
        """Return the spec whose :attr:`operator` is ``name``; raises :class:`ConfigError` if there is none."""
        plain, _, feedback = name.partition(_FED)
        graded = plain.endswith("_graded")
        plain = plain.removesuffix("_graded")
        fire = next((f for f in get_args(Fire) if f != "spike" and plain.endswith(f"_{f}")), "spike")
        plain = plain.removesuffix(f"_{fire}")
        for charge in get_args(Charge):
            for comparison in get_args(Comparison):
                prefix = f"LIF_{charge}_{comparison}_"
                reset, _, timing = plain[len(prefix) :].partition("_")
                if plain.startswith(prefix) and timing:
                    spec = cls(charge, comparison, reset, timing, graded, fire, feedback or "none")  # type: ignore[arg-type]
                    if spec.operator == name:
                        return spec
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


_CHOICES: dict[str, Any] = {
    "charge": Charge,
    "comparison": Comparison,
    "reset": Reset,
    "timing": Timing,
    "fire": Fire,
    "feedback": Feedback,
}
