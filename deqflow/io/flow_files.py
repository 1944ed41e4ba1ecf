"""Flow files by suffix: read and write in any of the formats that benchmarks and renderers use."""

import warnings
from os import PathLike
from pathlib import Path

import numpy as np

from deqflow.errors import FlowClippedWarning, FlowFileError
from deqflow.io.files import replace_bytes
from deqflow.io.formats.arrays import NPY, NPZ
from deqflow.io.formats.common import Flow, FlowFormat, Mask
from deqflow.io.formats.kitti import KITTI
from deqflow.io.formats.middlebury import FLO
from deqflow.io.formats.openexr import EXR
from deqflow.io.formats.pfm import PFM
from deqflow.io.formats.spring import FLO5

FLOW_FORMATS = {form.suffix: form for form in (FLO, KITTI, FLO5, PFM, NPY, NPZ, EXR)}
"""The formats by suffix; a new one is a file in ``formats/`` and its name here."""

SUFFIXES = {form.name: form.suffix for form in FLOW_FORMATS.values()}
"""By what ``--formats`` calls them."""


def read_flow(path: str | PathLike[str]) -> tuple[Flow, Mask]:
    """Read a flow file in the format that its suffix names.

    Returns:
        Flow, float32 (H, W, 2), (u, v) in pixels, zero where unknown; and bool (H, W), true where known.

    Raises:
        FlowFileError: missing, of unknown format, truncated, or contradicting itself.
    """
    path = Path(path)
    flow_format = _format_of(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FlowFileError(f"cannot read the flow file {path}: {error.strerror or error}") from error
    try:
        return flow_format.decode(data)
    except ValueError as error:
        raise FlowFileError(f"{path} is not a usable {flow_format.description}: {error}") from error
    except ModuleNotFoundError as error:
        raise _library_missing(path, flow_format, error) from error


def write_flow(path: str | PathLike[str], flow: Flow, valid: Mask | None = None) -> None:
    """Write flow (H, W, 2) in the format that the suffix names, whole or not at all; replaces a file there.

    Values that the format cannot hold (KITTI's ends at 512 px) are clipped, with a `FlowClippedWarning` that
    counts the pixels.

    Args:
        path: ending in one of `FLOW_FORMATS`.
        flow: (u, v) in pixels, finite where valid.
        valid: bool (H, W), true where the flow is known; everywhere by default.

    Raises:
        FlowFileError: unknown suffix, wrong shape, NaN, or infinite values.
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    flow_format = _format_of(path)
    with np.errstate(over="ignore"):
        flow = np.asarray(flow).astype(np.float32)
    if flow.ndim != 3 or flow.shape[2] != 2 or flow.size == 0:
        raise FlowFileError(f"cannot write {path}: flow has shape {flow.shape}, expected (H, W, 2)")
    known = np.ones(flow.shape[:2], bool) if valid is None else np.asarray(valid).astype(bool)
    if known.shape != flow.shape[:2]:
        raise FlowFileError(f"cannot write {path}: valid has shape {known.shape}, flow has {flow.shape}")
    if not np.isfinite(flow[known]).all():
        raise FlowFileError(f"cannot write {path}: the flow contains NaN or infinite values")
    flow = _clip(path, flow_format, np.where(known[..., None], flow, np.float32(0)))
    try:
        data = flow_format.encode(flow, known)
    except ValueError as error:
        raise FlowFileError(f"cannot write {path}: {error}") from error
    except ModuleNotFoundError as error:
        raise _library_missing(path, flow_format, error) from error
    replace_bytes(path, data)


def check_flow_format(path: Path) -> None:
    """Raise FlowFileError unless this file's format is known and its library is installed."""
    pixel = np.zeros((1, 1, 2), np.float32), np.ones((1, 1), bool)
    try:
        _format_of(path).encode(*pixel)
    except ModuleNotFoundError as error:
        raise _library_missing(path, _format_of(path), error) from error


def _clip(path: Path, flow_format: FlowFormat, flow: Flow) -> Flow:
    if flow_format.limits is None:
        return flow
    low, high = flow_format.limits
    count = int(((flow < low) | (flow > high)).any(-1).sum())
    if count == 0:
        return flow
    warnings.warn(
        f"{path}: {count} of {flow[..., 0].size} pixels were clipped: a {flow_format.description} holds "
        f"{low:g} to {high:.2f} px, the flow reaches {np.abs(flow).max():.1f}; .flo holds all",
        FlowClippedWarning,
        stacklevel=3,
    )
    return np.clip(flow, low, high)


def _format_of(path: Path) -> FlowFormat:
    try:
        return FLOW_FORMATS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(FLOW_FORMATS)
        raise FlowFileError(f"{path} has no known flow format, expected a suffix among {known}") from None


def _library_missing(path: Path, flow_format: FlowFormat, error: ModuleNotFoundError) -> FlowFileError:
    return FlowFileError(
        f"{path}: a {flow_format.description} needs the package {error.name}, "
        f"which `pip install 'deqflow[{flow_format.extra}]'` brings"
    )
