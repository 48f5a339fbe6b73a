"""What the module classes of torch register: the source of torch itself is never read for it.

From torch 2.1 to 2.13; quantized classes and those of ``torch.ao`` are left out. torch.nn registers by
computed names and through mixins, so that its source would say less than this table does.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

Container: TypeAlias = Literal["", "sequential", "list", "dict", "parameters"]


class TorchClass(NamedTuple):
    """What one class registers on itself; ``#`` in a name stands for a number (``weight_ih_l#``).

    ``parameters`` and ``buffers`` are there in every build; the optional ones are None with some arguments,
    or are missing in older files. ``children`` are child and class, "" where the caller gives the child; a
    child can be missing. ``container``: what it holds besides, under names that its table row does not know:
    modules by number (``sequential``, ``list``) or by name (``dict``), or parameters. A ``loss`` stands where
    a parent's type names it; its ``weight`` buffer would make every bare Linear ambiguous in a search.
    """

    name: str
    parameters: tuple[str, ...]
    optional_parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    optional_buffers: tuple[str, ...]
    non_persistent: tuple[str, ...]
    children: tuple[tuple[str, str], ...]
    container: Container
    loss: bool


class Row(NamedTuple):
    """Classes of ``torch.nn`` (or of the ``package``) that register the same; names are separated by spaces.

    ``children`` are written ``name:Class``, with nothing behind the colon where any module can stand.
    """

    classes: str
    parameters: str = ""
    optional_parameters: str = ""
    buffers: str = ""
    optional_buffers: str = ""
    non_persistent: str = ""
    children: str = ""
    container: Container = ""
    loss: bool = False
    package: str = "torch.nn"


_STATISTICS = "running_mean running_var num_batches_tracked"
"""None with ``track_running_stats=False``; files of torch before 0.4.1 have no ``num_batches_tracked``."""

_RECURRENT = """
weight_ih_l# weight_hh_l# weight_ih_l#_reverse weight_hh_l#_reverse
bias_ih_l# bias_hh_l# bias_ih_l#_reverse bias_hh_l#_reverse
"""

# Classes with an underscore are bases that packages derive from.
ROWS = (
    Row("Linear LazyLinear NonDynamicallyQuantizableLinear Bilinear", "weight", "bias"),
    Row(
        """
        Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d LazyConv1d LazyConv2d LazyConv3d
        LazyConvTranspose1d LazyConvTranspose2d LazyConvTranspose3d _ConvNd _ConvTransposeNd
        """,
        "weight",
        "bias",
    ),
    Row("Embedding EmbeddingBag PReLU", "weight"),
    Row("LayerNorm GroupNorm", "", "weight bias"),
    Row("RMSNorm", "", "weight"),  # since torch 2.4
    Row(
        """
        BatchNorm1d BatchNorm2d BatchNorm3d LazyBatchNorm1d LazyBatchNorm2d LazyBatchNorm3d SyncBatchNorm
        InstanceNorm1d InstanceNorm2d InstanceNorm3d LazyInstanceNorm1d LazyInstanceNorm2d LazyInstanceNorm3d
        _NormBase _BatchNorm _InstanceNorm _LazyNormBase
        """,
        "",
        "weight bias",
        optional_buffers=_STATISTICS,
    ),
    Row("RNN GRU", "weight_ih_l0 weight_hh_l0", _RECURRENT),
    Row("RNNBase LSTM", "weight_ih_l0 weight_hh_l0", _RECURRENT + "weight_hr_l# weight_hr_l#_reverse"),
    Row("RNNCellBase RNNCell LSTMCell GRUCell", "weight_ih weight_hh", "bias_ih bias_hh"),
    Row(
        "MultiheadAttention",
        "",
        "in_proj_weight in_proj_bias q_proj_weight k_proj_weight v_proj_weight bias_k bias_v",
        children="out_proj:NonDynamicallyQuantizableLinear",
    ),
    Row("Transformer", children="encoder: decoder:"),
    Row("TransformerEncoder TransformerDecoder", children="layers:ModuleList norm:"),
    Row(
        "TransformerEncoderLayer",
        children="""
        self_attn:MultiheadAttention linear1:Linear linear2:Linear norm1:LayerNorm norm2:LayerNorm
        dropout:Dropout dropout1:Dropout dropout2:Dropout activation:
        """,
    ),
    Row(
        "TransformerDecoderLayer",
        children="""
        self_attn:MultiheadAttention multihead_attn:MultiheadAttention linear1:Linear linear2:Linear
        norm1:LayerNorm norm2:LayerNorm norm3:LayerNorm
        dropout:Dropout dropout1:Dropout dropout2:Dropout dropout3:Dropout activation:
        """,
    ),
    Row("AdaptiveLogSoftmaxWithLoss", children="head:Linear tail:ModuleList"),
    Row("FractionalMaxPool2d FractionalMaxPool3d", optional_buffers="_random_samples"),
    Row("Sequential", container="sequential"),
    Row("ModuleList", container="list"),
    Row("ModuleDict Container", container="dict"),
    Row("ParameterList ParameterDict", container="parameters"),
    Row("DataParallel DistributedDataParallel DistributedDataParallelCPU", children="module:"),
    Row("AveragedModel", buffers="n_averaged", children="module:", package="torch.optim.swa_utils"),
    # What has no entries of its own. A Module that is built as such gets them from whoever built it.
    Row("Module LazyModuleMixin _ConvTransposeMixin _LazyConvXdMixin"),
    Row(
        """
        CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid LogSoftmax Mish ReLU
        ReLU6 RReLU SELU Sigmoid SiLU Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink
        Threshold
        AlphaDropout Dropout Dropout1d Dropout2d Dropout3d FeatureAlphaDropout _DropoutNd
        Identity Flatten Unflatten Fold Unfold ChannelShuffle PixelShuffle PixelUnshuffle
        Upsample UpsamplingBilinear2d UpsamplingNearest2d CosineSimilarity PairwiseDistance
        CrossMapLRN2d LocalResponseNorm
        """
    ),
    Row(
        """
        AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
        AdaptiveMaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d LPPool3d MaxPool1d MaxPool2d
        MaxPool3d MaxUnpool1d MaxUnpool2d MaxUnpool3d _AdaptiveAvgPoolNd _AdaptiveMaxPoolNd _AvgPoolNd
        _LPPoolNd _MaxPoolNd _MaxUnpoolNd
        CircularPad1d CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad1d
        ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d ReplicationPad3d ZeroPad1d ZeroPad2d
        ZeroPad3d _CircularPadNd _ConstantPadNd _ReflectionPadNd _ReplicationPadNd
        """
    ),
    Row(
        """
        CrossEntropyLoss NLLLoss NLLLoss2d BCELoss MultiMarginLoss MultiLabelSoftMarginLoss _WeightedLoss
        """,
        optional_buffers="weight",
        loss=True,
    ),
    Row("BCEWithLogitsLoss", optional_buffers="weight pos_weight", loss=True),
    # Since torch 2.13.
    Row("LinearCrossEntropyLoss", optional_buffers="weight", children="linear:Linear", loss=True),
    Row(
        """
        CosineEmbeddingLoss CTCLoss GaussianNLLLoss HingeEmbeddingLoss HuberLoss KLDivLoss L1Loss
        MarginRankingLoss MSELoss MultiLabelMarginLoss PoissonNLLLoss SmoothL1Loss SoftMarginLoss
        TripletMarginLoss _Loss
        """,
        loss=True,
    ),
    Row("TripletMarginWithDistanceLoss", children="distance_function:", loss=True),
)

# What the functions below give back is the module that they took, or one that registers the same.
SAME_MODULE = """
copy.copy copy.deepcopy
torch.compile torch.jit.script torch.jit.trace torch.jit.trace_module torch.jit.freeze
torch.jit.optimize_for_inference torch.nn.SyncBatchNorm.convert_sync_batchnorm
torch.nn.utils.weight_norm torch.nn.utils.remove_weight_norm
torch.nn.utils.spectral_norm torch.nn.utils.remove_spectral_norm
torch.nn.utils.weight_norm.weight_norm torch.nn.utils.weight_norm.remove_weight_norm
torch.nn.utils.spectral_norm.spectral_norm torch.nn.utils.spectral_norm.remove_spectral_norm
torch.nn.utils.parametrizations.weight_norm torch.nn.utils.parametrizations.spectral_norm
torch.nn.utils.parametrizations.orthogonal
torch.nn.utils.parametrize.register_parametrization torch.nn.utils.parametrize.remove_parametrizations
torch.nn.utils.prune.identity torch.nn.utils.prune.random_unstructured torch.nn.utils.prune.l1_unstructured
torch.nn.utils.prune.random_structured torch.nn.utils.prune.ln_structured torch.nn.utils.prune.remove
torch.nn.utils.prune.custom_from_mask
torch.nn.utils.convert_conv2d_weight_memory_format torch.nn.utils.convert_conv3d_weight_memory_format
torch.nn.utils.memory_format.convert_conv2d_weight_memory_format
torch.nn.utils.memory_format.convert_conv3d_weight_memory_format
torch.distributed.fsdp.fully_shard
torch.distributed.algorithms._checkpoint.checkpoint_wrapper.checkpoint_wrapper
"""


@functools.cache
def torch_classes() -> dict[str, TorchClass]:
    """Every class of the table by the name under which most code knows it (``torch.nn.Linear``)."""
    return {known.name: known for row in ROWS for known in _read(row)}


def find(dotted: str) -> TorchClass | None:
    """The class of that name; of torch.nn's modules that define a class or import it as well."""
    return torch_classes().get(_shorten(dotted))


def is_parameter(dotted: str) -> bool:
    """Whether what that name builds becomes a parameter when it is set on a module."""
    return _shorten(dotted) in ("torch.nn.Parameter", "torch.nn.UninitializedParameter")


def is_buffer(dotted: str) -> bool:
    """Whether what that name builds becomes a buffer when it is set on a module, persistent by default."""
    return _shorten(dotted) in ("torch.nn.Buffer", "torch.nn.UninitializedBuffer")  # since torch 2.5


def gives_same_module(dotted: str) -> bool:
    """Whether that function gives back its first argument, as far as classes of modules are concerned."""
    return _shorten(dotted) in _same_module()


@functools.cache
def _same_module() -> frozenset[str]:
    return frozenset(SAME_MODULE.split())


def _shorten(dotted: str) -> str:
    """Leave out the module between ``torch.nn`` and a class: ``modules.linear``, ``parameter``."""
    parts = dotted.split(".")
    if parts[:2] == ["torch", "nn"] and parts[2:3] in (["modules"], ["parallel"], ["parameter"]):
        del parts[2]
        if len(parts) > 3 and parts[2].islower():  # as modules are, and classes are not
            del parts[2]
    return ".".join(parts)


def _read(row: Row) -> Iterator[TorchClass]:
    pairs = [pair.partition(":") for pair in row.children.split()]
    for name in row.classes.split():
        yield TorchClass(
            name=f"{row.package}.{name}",
            parameters=tuple(row.parameters.split()),
            optional_parameters=tuple(row.optional_parameters.split()),
            buffers=tuple(row.buffers.split()),
            optional_buffers=tuple(row.optional_buffers.split()),
            non_persistent=tuple(row.non_persistent.split()),
            children=tuple((child, of and f"torch.nn.{of}") for child, _, of in pairs),
            container=row.container,
            loss=row.loss,
        )
