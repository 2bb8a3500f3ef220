"""The errors a user can meet.

Every error of this package derives from :class:`SxqError`, names the layer, file or field it is about and says
what to do. Where a built-in type says the same, the error derives from it too, so ``except ValueError`` still works.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EquilibriumError",
    "ExportError",
    "MissingDependencyError",
    "ModelEditedError",
    "ModelFileError",
    "ModelSourceError",
    "NativeLibraryError",
    "NonFiniteWeightError",
    "NothingToQuantizeError",
    "OutputPathError",
    "PluginError",
    "RegistryError",
    "SampleError",
    "SearchError",
    "SxqError",
    "TrainingError",
    "UnavailableNameError",
    "UnmatchedNameError",
    "UnsupportedModelError",
    "UnsupportedNeuronError",
]


class SxqError(Exception):
    """Base of all errors raised by snn_extreme_quant."""


class ConfigError(SxqError, ValueError):
    """A configuration holds a value, or a combination of values, that means nothing."""


class DataError(SxqError, ValueError):
    """A file of texts and labels cannot be read, or holds what it should not."""


class RegistryError(SxqError, LookupError):
    """A name is not registered, or is registered twice."""


class PluginError(SxqError, RuntimeError):
    """A framework plugin is missing, broken, or speaks another version of the contract."""


class UnsupportedNeuronError(SxqError, TypeError):
    """A neuron has no exact :class:`~snn_extreme_quant.neurons.NeuronSpec`."""


class UnsupportedModelError(SxqError, TypeError):
    """A model does something that cannot be carried over exactly."""


class NothingToQuantizeError(SxqError, ValueError):
    """No layer of the model can be, or was allowed to be, quantised."""


class UnmatchedNameError(SxqError, ValueError):
    """A name in ``skip`` or in a plan matches no layer of the model."""


class NonFiniteWeightError(SxqError, ValueError):
    """A weight is NaN or infinite."""


class CheckpointError(SxqError, ValueError):
    """A checkpoint cannot be read, or is not of the model that it is loaded into."""


class SampleError(SxqError, ValueError):
    """The sample input does not fit the model."""


class ExportError(SxqError, RuntimeError):
    """The model could not be exported, or its export would not compute what the model computes."""


class OutputPathError(SxqError, OSError):
    """An output file cannot be written."""


class ModelFileError(SxqError, ValueError):
    """A file is not an ONNX model that onnxruntime can load, or was not written by this package."""


class ModelEditedError(ModelFileError):
    """A file was changed after it was exported."""


class ModelSourceError(SxqError, ValueError):
    """What a command line names as a model cannot be imported, or gives none."""


class EquilibriumError(SxqError, ArithmeticError):
    """A network with feedback did not settle, or the equation of its gradient was not solved.

    Args:
        message: what was tried, and what to do.
        solution: the last try, a :class:`~snn_extreme_quant.neurons.fixed_point_solvers.Solution`.
    """

    def __init__(self, message: str, solution: object = None) -> None:
        """Keep the last try."""
        super().__init__(message)
        self.solution = solution


class SearchError(SxqError, RuntimeError):
    """A search of precisions cannot go on: evaluations fail, or model or data are other ones than before.

    ``result`` is a ``SearchResult`` of what was found until then, where failures in a row stopped it; None else.
    """

    result: object = None


class TrainingError(SxqError, RuntimeError):
    """Training went wrong."""


class NativeLibraryError(SxqError, RuntimeError):
    """The library of native kernels cannot be had on this machine."""


class MissingDependencyError(SxqError, ImportError):
    """An optional package that this feature needs is not installed."""


class UnavailableNameError(SxqError, AttributeError):
    """A public name cannot be loaded, for want of a package that is not installed: ``hasattr`` says no."""
