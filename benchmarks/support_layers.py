"""What becomes of layers that get no low-bit weights: the answers of docs/support.md that no registry holds.

Each key names one or more classes; each value says whether the layer's weights are low-bit ("no", or "-" where it has
none), and what becomes of it in an exported file. `support_table.py` checks that no class is forgotten.
"""

from __future__ import annotations

_FOLDED = "folded into scale and bias of the quantised layer before it, else one product and one sum a channel"
_NORM = "in float: it divides by a statistic of real numbers; spikes behind it are not guaranteed"
_AVERAGE = (
    "exact: a sum and one division; a quantised layer right behind it is guaranteed for windows of 2, 4, 8, ... values;"
    " with `ceil_mode`, padding that is not counted, or sizes that do not divide: in float, not guaranteed"
)
_MAXIMUM = "exact: of spikes the largest is a spike; adaptive sizes must divide, else `export_onnx` stops"
_MOVES = "exact: it moves values and computes nothing"
_RUNTIME = "the runtime's own operator, whose spikes behind it are measured by `verify` and not guaranteed"
_NOTHING = "does nothing in evaluation"
_ACTIVATION = "in float: real activations, so that spikes behind them are not guaranteed"
_RECURRENT = "in float: it multiplies by its weights itself; use snntorch.RLeaky or RSynaptic"
_TRANSFORMER = (
    "its `Linear` layers are swapped, the fast path that would run float weights is switched off; softmax and layer"
    " norm are real, so that spikes behind them are not guaranteed"
)
_CONTAINER = "looked into: what is inside counts by itself"

#: Layers of torch.nn.
TORCH: dict[str, tuple[str, str]] = {
    "Bilinear": ("no", "in float"),
    "EmbeddingBag": ("no", "in float: use `Embedding` and a sum"),
    "LazyLinear LazyConv1d LazyConv2d LazyConv3d LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d": (
        "yes",
        "after the first run of the model, which makes them plain layers",
    ),
    "RNN LSTM GRU RNNCell LSTMCell GRUCell": ("no", _RECURRENT),
    "MultiheadAttention": ("no", "in float: it multiplies by its weights itself, and softmax is real-valued"),
    "TransformerEncoderLayer TransformerDecoderLayer TransformerEncoder TransformerDecoder Transformer": (
        "yes",
        _TRANSFORMER,
    ),
    "AdaptiveLogSoftmaxWithLoss": ("no", "in float: a loss"),
    "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm": ("-", _FOLDED),
    "LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d": ("-", f"after the first run of the model: {_FOLDED}"),
    "InstanceNorm1d InstanceNorm2d InstanceNorm3d LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d": (
        "-",
        _NORM,
    ),
    "LayerNorm GroupNorm RMSNorm LocalResponseNorm": ("-", _NORM),
    "CrossMapLRN2d": ("-", "refused: torch cannot record it; use `LocalResponseNorm`"),
    "AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d": ("-", _AVERAGE),
    "MaxPool1d MaxPool2d MaxPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d": ("-", _MAXIMUM),
    "MaxUnpool1d MaxUnpool2d MaxUnpool3d": ("-", _RUNTIME),
    "LPPool1d LPPool2d LPPool3d": ("-", "in float: powers and roots, so that spikes behind it are not guaranteed"),
    "FractionalMaxPool2d FractionalMaxPool3d": ("-", "refused: it draws its windows at random"),
    "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout": ("-", _NOTHING),
    "Flatten Unflatten Identity": ("-", _MOVES),
    "ChannelShuffle PixelShuffle PixelUnshuffle Fold Unfold": ("-", _RUNTIME),
    "ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad1d ReflectionPad2d"
    " ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d": (
        "-",
        _MOVES,
    ),
    "Upsample UpsamplingNearest2d UpsamplingBilinear2d": ("-", _RUNTIME),
    "ReLU": ("-", "exact: it keeps a number or gives 0"),
    "ReLU6 Hardtanh Threshold LeakyReLU PReLU": ("-", _ACTIVATION),
    "CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish LogSigmoid LogSoftmax Mish SELU SiLU Sigmoid Softmax Softmax2d"
    " Softmin Softplus Softshrink Softsign Tanh Tanhshrink": ("-", _ACTIVATION),
    "RReLU": ("-", "refused: torch records it as random, in evaluation too; use `LeakyReLU`"),
}

#: Layers of spikingjelly.activation_based.layer.
SPIKINGJELLY: dict[str, tuple[str, str]] = {
    "WSLinear WSConv2d": ("no", "in float: they standardise their weight in each forward pass; use `Linear`, `Conv2d`"),
    "BatchNorm1d BatchNorm2d BatchNorm3d": ("-", _FOLDED),
    "ThresholdDependentBatchNorm1d ThresholdDependentBatchNorm2d ThresholdDependentBatchNorm3d": ("-", _FOLDED),
    "TemporalEffectiveBatchNorm1d TemporalEffectiveBatchNorm2d TemporalEffectiveBatchNorm3d": (
        "-",
        "in float: a factor for each time step, so the number of steps is fixed",
    ),
    "GroupNorm": ("-", _NORM),
    "AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d VotingLayer": ("-", _AVERAGE),
    "MaxPool1d MaxPool2d MaxPool3d": ("-", _MAXIMUM),
    "MaxUnpool1d MaxUnpool2d MaxUnpool3d": ("-", _RUNTIME),
    "Dropout Dropout2d": ("-", _NOTHING),
    "Flatten PrintShapeModule": ("-", _MOVES),
    "Upsample": ("-", _RUNTIME),
    "MultiStepContainer SeqToANNContainer TLastMultiStepContainer TLastSeqToANNContainer StepModeContainer": (
        "-",
        _CONTAINER,
    ),
    "OTTTSequential GradwithTrace SpikeTraceOp": ("-", f"{_CONTAINER}; they matter in training alone"),
    "QKAttention TokenQKAttention ChannelQKAttention SpikingSelfAttention SpikeDrivenSelfAttention": (
        "yes",
        "its layers and neurons are looked into",
    ),
    "MultiDimensionalAttention TemporalWiseAttention": (
        "yes",
        "its layers are swapped; sigmoid of averages, so spikes behind it are not guaranteed",
    ),
    "SpikeCountToBinary TemporalBinSum": ("-", "it changes the number of time steps: not measured"),
}

#: Layers of snnTorch.
SNNTORCH: dict[str, tuple[str, str]] = {
    "GradedSpikes": ("no", "in float: one real factor for each spike; use `Leaky(graded_spikes_factor=...)`"),
    "BatchNormTT1d BatchNormTT2d": ("-", "one batch norm for each time step: the number of steps is fixed"),
}
