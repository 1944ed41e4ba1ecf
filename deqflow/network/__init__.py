"""The components of the network, as plain modules, each with the configuration that builds it."""

from deqflow.network.correlation import CORRELATIONS, Correlation, build_correlation
from deqflow.network.encoder import SharedEncoder, SharedEncoderConfig, StandardizedConv2d
from deqflow.network.gated_update import GatedStripConfig, GatedStripUpdate
from deqflow.network.pyramid_encoder import PyramidEncoder, PyramidEncoderConfig
from deqflow.network.raft_encoder import SeparateEncoders, SeparateEncodersConfig
from deqflow.network.raft_update import GRUConfig, GRUUpdate
from deqflow.network.uncertainty import Mixture, MixtureConfig, MixtureHead
from deqflow.network.upsampling import (
    BilinearConfig,
    BilinearUpsampling,
    ConvexConfig,
    ConvexUpsampling,
    extract_positions,
)

__all__ = [
    "CORRELATIONS",
    "BilinearConfig",
    "BilinearUpsampling",
    "ConvexConfig",
    "ConvexUpsampling",
    "Correlation",
    "GRUConfig",
    "GRUUpdate",
    "GatedStripConfig",
    "GatedStripUpdate",
    "Mixture",
    "MixtureConfig",
    "MixtureHead",
    "PyramidEncoder",
    "PyramidEncoderConfig",
    "SeparateEncoders",
    "SeparateEncodersConfig",
    "SharedEncoder",
    "SharedEncoderConfig",
    "StandardizedConv2d",
    "build_correlation",
    "extract_positions",
]
