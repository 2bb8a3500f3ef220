"""The tests every framework plugin passes, ours and third parties' alike.

A plugin's test file inherits :class:`FrameworkContract` and names its neurons; ``docs/plugins.md`` shows a whole
one. This module alone imports pytest, so nothing else of the package may import it.

Example:
    >>> class TestMyPlugin(FrameworkContract):
    ...     framework = "the plugin object"
    ...     neurons = (NeuronCase("plain", nn.Identity, 8),)
    ...     potential = "v"
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from packaging.requirements import Requirement
from torch import Tensor, nn

from snn_extreme_quant.config import Ternary
from snn_extreme_quant.errors import UnsupportedNeuronError
from snn_extreme_quant.frameworks.contract import API_VERSION, Framework, NeuronReading
from snn_extreme_quant.layers import IntegerFirst
from snn_extreme_quant.neurons import NeuronSpec, neuron_sequence

__all__ = ["FrameworkContract", "NeuronCase", "assert_same_bits", "random_currents"]


class NeuronCase(NamedTuple):
    """A neuron to test: a label, a function that makes a fresh one, and the shape of its input.

    ``width`` is a number of features, or the shape of one sample, ``(C, H, W)``.
    """

    label: str
    make: Callable[[], nn.Module]
    width: int | tuple[int, ...] = 8

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample.

        Example:
            >>> NeuronCase("plain", nn.Identity, 4).shape, NeuronCase("image", nn.Identity, (2, 5, 5)).shape
            ((4,), (2, 5, 5))
        """
        return (self.width,) if isinstance(self.width, int) else self.width


def assert_same_bits(actual: Tensor, expected: Tensor, what: str) -> None:
    """Fail unless two float32 tensors are equal bit for bit; -0.0 is not 0.0.

    Example:
        >>> assert_same_bits(torch.zeros(2), torch.tensor([0.0, -0.0]), "zeros")
        Traceback (most recent call last):
        AssertionError: zeros: 1 of 2 values differ in their bits, first at (1,): 0.0 is not -0.0
    """
    __tracebackhide__ = True
    actual, expected = actual.detach(), expected.detach()
    assert actual.dtype == expected.dtype == torch.float32, f"{what}: {actual.dtype} against {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)} against {tuple(expected.shape)}"
    different = actual.contiguous().view(torch.int32) != expected.contiguous().view(torch.int32)
    if bool(different.any()):
        first = tuple(int(i) for i in different.nonzero()[0])
        raise AssertionError(
            f"{what}: {int(different.sum())} of {different.numel()} values differ in their bits, first at {first}:"
            f" {actual[first].item()!r} is not {expected[first].item()!r}"
        )


def random_currents(steps: int, batch: int, width: int | tuple[int, ...], thresholds: Tensor, seed: int = 0) -> Tensor:
    """Return input currents that provoke the cases in which two implementations of a neuron differ.

    A quarter each are normal numbers, multiples of a quarter of the threshold (the potential then lands *on* the
    threshold), the threshold or its float neighbours or its negative, and zeros of both signs, subnormal and large
    numbers.

    Args:
        steps: T, time steps.
        batch: B, sequences.
        width: N, features, or the shape of one sample, ``(C, H, W)``.
        thresholds: broadcastable to one sample.
        seed: of the random numbers.

    Returns:
        float32 of shape ``(T, B, N)`` or ``(T, B, C, H, W)``.
    """
    g = torch.Generator().manual_seed(seed)
    sample = (width,) if isinstance(width, int) else width
    shape = (steps, batch, *sample)
    theta = thresholds.detach().float().expand(sample)
    infinity = torch.tensor(torch.inf)
    special = torch.stack([theta, torch.nextafter(theta, infinity), torch.nextafter(theta, -infinity), -theta])
    odd = torch.tensor([0.0, -0.0, 1e-40, -1e-40, 1e6, -1e6, 1e-3, 3.0])
    near = special[:, None, None].expand(-1, steps, batch, *sample)
    kinds = (
        torch.randn(shape, generator=g),
        torch.randint(-4, 9, shape, generator=g) * (theta / 4),
        near.gather(0, torch.randint(0, len(special), shape, generator=g)[None])[0],
        odd[torch.randint(0, len(odd), shape, generator=g)],
    )
    choice = torch.randint(0, len(kinds), shape, generator=g)
    return torch.stack(kinds).gather(0, choice[None])[0]


class _Net(nn.Module):
    """A neuron three levels deep, where a walk over the children alone does not find it."""

    def __init__(self, neuron: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.ModuleDict({"neuron": neuron}))])


class FrameworkContract:
    """What any plugin must do; a subclass whose name starts with ``Test`` runs as pytest tests.

    Set :attr:`framework`, :attr:`neurons` and :attr:`potential`. Override :meth:`make_layer` if a class of
    ``framework.layers()`` is neither a ``Linear`` nor a ``Conv`` of torch.
    """

    #: The plugin object, as its entry point gives it.
    framework: ClassVar[Any]
    #: Neurons in every option that the plugin claims to read.
    neurons: ClassVar[Sequence[NeuronCase | tuple[str, Callable[[], nn.Module], int]]]
    #: The name of the neurons' attribute that holds the membrane potential.
    potential: ClassVar[str]

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run a test that takes ``neuron`` once for each of :attr:`neurons`."""
        if "neuron" in metafunc.fixturenames:
            cases = [NeuronCase(*case) for case in self.neurons]
            metafunc.parametrize("neuron", cases, ids=[case.label for case in cases])

    def make_layer(self, cls: type[nn.Module]) -> nn.Module:
        """Return a small layer of one of the classes that ``framework.layers()`` takes the place of."""
        build: Any = cls
        return build(6, 4) if issubclass(cls, nn.Linear) else build(2, 4, 3)  # type: ignore[no-any-return]

    def run(self, module: nn.Module, reading: NeuronReading, currents: Tensor) -> tuple[Tensor, Tensor]:
        """Run a neuron over currents ``(T, B, N)``; return its spikes ``(T, B, N)`` and last potential ``(B, N)``.

        For neurons of another input shape N is that shape.
        """
        with torch.no_grad():
            outputs = [module(currents)] if reading.multi_step else [module(x) for x in currents]
        if reading.returns_state:
            outputs = [output[0] for output in outputs]
        spikes = outputs[0] if reading.multi_step else torch.stack(outputs)
        return spikes, getattr(module, self.potential)

    def _follow(self, reading: NeuronReading, currents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Run the spec's own functions over currents, from the state after a reset."""
        with torch.no_grad():
            return neuron_sequence(
                reading.spec, reading.parameters, currents, reading.initial_state(), reading.recurrent
            )

    def potential_after_reset(self, module: nn.Module, reading: NeuronReading, shape: tuple[int, ...]) -> Tensor:
        """Return the potential from which ``module``, as it is now, would start; found by one step from it."""
        quiet = torch.zeros(1, 2, *shape)
        want = self._follow(reading, quiet)[1]["v"][-1]
        _, have = self.run(copy.deepcopy(module), reading, quiet)
        assert_same_bits(have, want, "membrane potential one step after a reset")
        return have

    # What a plugin says about itself.

    def test_satisfies_the_protocol(self) -> None:
        """All attributes and methods are there, of the right types."""
        plugin = self.framework
        assert isinstance(plugin, Framework), f"{plugin!r} lacks an attribute or method of Framework"
        assert plugin.name.strip(), "the plugin has no name"
        assert plugin.name == plugin.name.lower(), f"{plugin.name!r} is not lower case"
        assert plugin.install.strip(), "install is no command"
        methods = plugin.reset_methods
        assert not isinstance(methods, str), f"reset_methods is a sequence of names, not {methods!r}"
        assert all(isinstance(m, str) for m in methods), f"reset_methods: {methods!r}"

    def test_is_written_for_this_contract(self) -> None:
        """The plugin was written for the version of the contract that is installed."""
        assert self.framework.api_version == API_VERSION, f"written for {self.framework.api_version}, not {API_VERSION}"

    def test_requirement_is_a_requirement(self) -> None:
        """The requirement names a distribution and bounds its version."""
        requirement = Requirement(self.framework.requirement)
        assert requirement.specifier, f"{requirement} accepts any version, also those not written yet"

    def test_is_available_never_raises(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Availability is a bool, also when the framework's import fails."""
        assert self.framework.is_available() is True, "the framework is not installed: these tests need it"
        for cls in self.framework.neuron_classes():
            monkeypatch.setitem(sys.modules, cls.__module__.partition(".")[0], None)
        assert isinstance(self.framework.is_available(), bool), "is_available() is no bool"

    # Neurons.

    def test_neuron_classes_are_module_types(self) -> None:
        """The readable classes are types of modules, and the neurons under test are among them."""
        classes = tuple(self.framework.neuron_classes())
        assert classes, "the plugin reads no class"
        assert all(isinstance(c, type) and issubclass(c, nn.Module) for c in classes), f"neuron_classes(): {classes}"
        untested = [c for c in classes if not any(isinstance(NeuronCase(*n).make(), c) for n in self.neurons)]
        assert not untested, f"`neurons` has no case for {untested[0].__name__}"

    def test_is_neuron(self, neuron: NeuronCase) -> None:
        """A neuron is recognised; torch's modules, and a container of neurons, are not neurons."""
        module = neuron.make()
        assert self.framework.is_neuron(module) is True, f"{type(module).__name__} is not recognised"
        for other in (nn.Linear(2, 2), nn.ReLU(), nn.Sequential(module)):
            assert self.framework.is_neuron(other) is False, f"{type(other).__name__} is taken for a neuron"

    def test_reading_fits_the_neuron(self, neuron: NeuronCase) -> None:
        """A reading has its spec's parameters, each broadcastable to one step, and leaves the neuron as it was."""
        module = neuron.make()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        reading = self.framework.read_neuron(module)
        assert isinstance(reading, NeuronReading)
        assert tuple(sorted(reading.parameters)) == tuple(sorted(reading.spec.parameter_names))
        for name, value in reading.parameters.items():
            shape = (value + torch.zeros(neuron.shape)).shape
            assert shape == neuron.shape, f"{name}: shape {tuple(value.shape)} for input of {neuron.shape}"
        assert NeuronSpec.from_operator(reading.spec.operator) == reading.spec
        assert all(torch.equal(before[k], v) for k, v in module.state_dict().items()), "reading changed the neuron"

    def test_reading_is_a_copy(self, neuron: NeuronCase) -> None:
        """Writing into a reading's parameters does not reach the neuron, and training it does not reach a reading."""
        module = neuron.make()
        reading = self.framework.read_neuron(module)
        for value in reading.parameters.values():
            value.add_(1.0)
        again = self.framework.read_neuron(module)
        for name, value in reading.parameters.items():
            assert torch.equal(value, again.parameters[name] + 1.0), f"{name} shares memory with the neuron"

    def test_step_function_is_the_neuron_bit_for_bit(self, neuron: NeuronCase) -> None:
        """The spec's step function gives the neuron's own spikes and potentials, bit for bit."""
        module = neuron.make()
        reading = self.framework.read_neuron(module)
        x = random_currents(24, 64, neuron.shape, reading.parameters["threshold"])
        spikes, states = self._follow(reading, x)
        for length in (1, 7, len(x)):  # the potential is seen at the end of a run alone
            self.framework.reset(module)
            own_spikes, own_potential = self.run(module, reading, x[:length])
            assert_same_bits(own_spikes, spikes[:length], f"spikes of {neuron.label}")
            assert_same_bits(
                own_potential, states["v"][length - 1], f"potential of {neuron.label} after {length} steps"
            )
        assert bool((spikes != 0).any()), "the neuron never fired: choose a lower threshold"

    def test_returned_states_are_those_of_the_spec(self, neuron: NeuronCase) -> None:
        """What a neuron returns after its spikes are the states it is read to have, step by step, bit for bit."""
        module = neuron.make()
        reading = self.framework.read_neuron(module)
        if not reading.returns_state:
            pytest.skip("returns spikes alone")
        x = random_currents(9, 4, neuron.shape, reading.parameters["threshold"])
        _, states = self._follow(reading, x)
        states["v_before"] = torch.cat([reading.initial_state()["v"].expand_as(x[:1]), states["v"][:-1]])
        for t, current in enumerate(x):
            with torch.no_grad():
                _, *values = module(current)
            values = list(values[0]) if reading.grouped else values
            assert len(values) == len(reading.returned), f"{len(values)} states, not {reading.returned}"
            for name, value in zip(reading.returned, values, strict=True):
                assert_same_bits(value, states[name][t], f"state {name!r} of {neuron.label} after step {t}")

    def test_attributes_hold_the_states(self, neuron: NeuronCase) -> None:
        """The attributes named in the reading hold the states after a run, bit for bit."""
        module = neuron.make()
        reading = self.framework.read_neuron(module)
        x = random_currents(6, 4, neuron.shape, reading.parameters["threshold"])
        spikes, states = self._follow(reading, x)
        self.run(module, reading, x)
        last = {name: values[-1] for name, values in states.items()} | {"s": spikes[-1], "v_before": states["v"][-2]}
        last["v_sequence"] = states["v"]
        for state, attribute in reading.attributes.items():
            assert_same_bits(getattr(module, attribute), last[state], f"{neuron.label}.{attribute}")

    def test_unreadable_neurons_have_reasons(self) -> None:
        """Each class that cannot be read is named with a reason, and is not one that can."""
        readable = {cls.__name__ for cls in self.framework.neuron_classes()}
        for name, reason in self.framework.unreadable_neurons().items():
            assert name not in readable, f"{name} is both readable and not"
            assert len(reason) > 10, f"{name}: {reason!r} is no reason"

    def test_inner_layers_exist(self, neuron: NeuronCase) -> None:
        """The layers inside a neuron are modules of it; what is no neuron has none."""
        module = neuron.make()
        names = self.framework.inner_layers(module)
        assert not isinstance(names, str), f"inner_layers is a sequence of names, not {names!r}"
        missing = set(names) - {name for name, _ in module.named_modules() if name}
        assert not missing, f"{type(module).__name__} holds no {sorted(missing)}"
        assert not tuple(self.framework.inner_layers(nn.Linear(2, 2))), "a Linear has inner layers"

    def test_refuses_other_modules(self) -> None:
        """Reading what is no neuron raises UnsupportedNeuronError with the class."""
        with pytest.raises(UnsupportedNeuronError, match="Hardswish"):
            self.framework.read_neuron(nn.Hardswish())

    def test_refuses_changed_dynamics(self, neuron: NeuronCase) -> None:
        """A subclass with a forward pass of its own, whatever it computes, raises UnsupportedNeuronError."""
        module = neuron.make()

        original: Any = type(module).forward

        def forward(self: nn.Module, *args: Any) -> Any:
            return original(self, *args)

        module.__class__ = type("ChangedNeuron", (type(module),), {"forward": forward})
        with pytest.raises(UnsupportedNeuronError, match="ChangedNeuron"):
            self.framework.read_neuron(module)

    # State.

    def test_has_its_reset_methods(self, neuron: NeuronCase) -> None:
        """Each neuron has at least one of the methods named in ``reset_methods``."""
        module = neuron.make()
        names = self.framework.reset_methods
        found = [name for name in names if callable(getattr(module, name, None))]
        assert found, f"{type(module).__name__} has none of the methods {names}"

    def test_reset_restores_v0_when_nested(self, neuron: NeuronCase) -> None:
        """After a reset a neuron deep in a model starts from ``v0``, whatever it has seen."""
        module = neuron.make()
        net = _Net(module)
        reading = self.framework.read_neuron(module)
        x = random_currents(5, 2, neuron.shape, reading.parameters["threshold"])
        fresh, _ = self.run(module, reading, x)
        self.framework.reset(net)
        self.potential_after_reset(module, reading, neuron.shape)
        again, _ = self.run(module, reading, x)
        assert_same_bits(again, fresh, "spikes after a reset")

    def test_reset_allows_another_batch_size(self, neuron: NeuronCase) -> None:
        """After a reset a neuron takes input of another shape."""
        module = neuron.make()
        reading = self.framework.read_neuron(module)
        for batch in (3, 5):
            x = random_currents(2, batch, neuron.shape, reading.parameters["threshold"])
            spikes, _ = self.run(module, reading, x)
            assert spikes.shape == x.shape
            self.framework.reset(module)

    def test_reset_leaves_other_models_alone(self, neuron: NeuronCase) -> None:
        """Resetting one model does not touch another."""
        mine, other = neuron.make(), neuron.make()
        reading = self.framework.read_neuron(mine)
        x = random_currents(5, 2, neuron.shape, reading.parameters["threshold"])
        self.run(mine, reading, x)
        _, before = self.run(other, reading, x)
        before = before.clone()
        self.framework.reset(_Net(mine))
        assert_same_bits(getattr(other, self.potential), before, "potential of the other model")

    def test_state_round_trip(self, neuron: NeuronCase) -> None:
        """A neuron put back into an earlier state goes on from there, even after a reset."""
        module = neuron.make()
        reading = self.framework.read_neuron(module)
        x = random_currents(12, 2, neuron.shape, reading.parameters["threshold"])
        self.run(module, reading, x[:5])
        state = self.framework.get_state(module)
        expected, _ = self.run(module, reading, x[5:])
        self.framework.reset(module)
        self.run(module, reading, x[:2])
        self.framework.set_state(module, state)
        actual, _ = self.run(module, reading, x[5:])
        assert_same_bits(actual, expected, "spikes from a restored state")

    def test_initial_state_round_trip(self, neuron: NeuronCase) -> None:
        """The state of a neuron that has not run yet can be put back too."""
        module = neuron.make()
        reading = self.framework.read_neuron(module)
        x = random_currents(6, 2, neuron.shape, reading.parameters["threshold"])
        state = self.framework.get_state(module)
        expected, _ = self.run(module, reading, x)
        self.framework.set_state(module, state)
        actual, _ = self.run(module, reading, x)
        assert_same_bits(actual, expected, "spikes from the initial state")

    # Layers and tracing.

    def test_layers_keep_the_parameters(self) -> None:
        """Each layer class maps to an integer-first class, whose ``from_float`` takes over the same Parameters."""
        for cls, quantised in self.framework.layers().items():
            assert issubclass(cls, nn.Module), f"{cls} is no module"
            assert issubclass(quantised, IntegerFirst), f"{quantised.__name__} does not derive from IntegerFirst"
            layer = self.make_layer(cls).eval()
            swapped = quantised.from_float(layer, Ternary())
            assert type(swapped) is quantised
            mine, theirs = dict(layer.named_parameters()), dict(swapped.named_parameters())
            assert list(mine) == list(theirs), f"{quantised.__name__} has other parameters than {cls.__name__}"
            assert all(mine[k] is theirs[k] for k in mine), f"{quantised.__name__} copies the Parameters"
            assert swapped.training is False, f"{quantised.__name__} loses the training flag"

    def test_after_swap_lets_reset_find_new_neurons(self, neuron: NeuronCase) -> None:
        """After a neuron was swapped and ``after_swap`` was called, a reset reaches the new one."""
        net = _Net(neuron.make())
        self.framework.reset(net)
        module = neuron.make()
        net.blocks[0][0]["neuron"] = module  # type: ignore[index]
        self.framework.after_swap(net)
        reading = self.framework.read_neuron(module)
        self.run(module, reading, random_currents(5, 2, neuron.shape, reading.parameters["threshold"]))
        self.framework.reset(net)
        self.potential_after_reset(module, reading, neuron.shape)

    def test_capturing_leaves_things_as_they_were(self, neuron: NeuronCase) -> None:
        """``capturing()`` gives a fresh context manager each time, lets neurons run, and propagates errors."""
        module = neuron.make()
        reading = self.framework.read_neuron(module)
        x = random_currents(4, 2, neuron.shape, reading.parameters["threshold"])
        expected, _ = self.run(module, reading, x)
        for _ in range(2):
            self.framework.reset(module)
            context = self.framework.capturing()
            assert isinstance(context, AbstractContextManager), "capturing() is no context manager"
            with context:
                inside, _ = self.run(module, reading, x)
            assert_same_bits(inside, expected, "spikes while capturing")
        with pytest.raises(ZeroDivisionError), self.framework.capturing():
            raise ZeroDivisionError
        self.framework.reset(module)
        after, _ = self.run(module, reading, x)
        assert_same_bits(after, expected, "spikes after capturing")
