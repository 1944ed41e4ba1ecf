"""The rooms of the network, as plain modules, each with the configuration that builds it."""

from deqflow.network.correlation import CorrelationPyramid
from deqflow.network.encoder import SharedEncoder, SharedEncoderConfig, StandardizedConv2d
from deqflow.network.gru import GRUConfig, GRUUpdate
from deqflow.network.residual import SeparateEncoders, SeparateEncodersConfig
from deqflow.network.uncertainty import Mixture, MixtureConfig, MixtureHead
from deqflow.network.update import MixerConfig, MixerUpdate
from deqflow.network.upsampling import (
    BilinearConfig,
    BilinearUpsampling,
    ConvexConfig,
    ConvexUpsampling,
    extract_cells,
)

__all__ = [
    "BilinearConfig",
    "BilinearUpsampling",
    "ConvexConfig",
    "ConvexUpsampling",
    "CorrelationPyramid",
    "GRUConfig",
    "GRUUpdate",
    "MixerConfig",
    "MixerUpdate",
    "Mixture",
    "MixtureConfig",
    "MixtureHead",
    "SeparateEncoders",
    "SeparateEncodersConfig",
    "SharedEncoder",
    "SharedEncoderConfig",
    "StandardizedConv2d",
    "extract_cells",
]
