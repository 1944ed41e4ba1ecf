"""The footage stage: pairs of neighboring frames without ground truth, from videos and folders of images."""

import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from deqflow.data.sample import Sample
from deqflow.errors import ConfigError, DataError
from deqflow.geometry import forward_splat
from deqflow.io.files import natural_key, visible
from deqflow.io.images import IMAGE_SUFFIXES
from deqflow.io.video import open_video
from deqflow.training.data import HeldOut, Sources, digest
from deqflow.training.options import FootageOptions
from deqflow.training.pairs import spread

ROOM = 1.3
"""Frames are kept so much larger than the crops: room to choose from, and no more than that in memory."""

MOST_FRAMES = 4000
"""Frames that are kept in all, spread evenly over the sources."""

_THUMBNAIL = 64  # pixels of the longer side
_CUT_CORRELATION = 0.5
_CUT_DIFFERENCE = 8.0

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Shot:
    """Frames of one take, compressed without loss.

    Attributes:
        name: of its source and place in it.
        frames: PNG files in memory.
    """

    name: str
    frames: Sequence[bytes]

    def __getitem__(self, index: int) -> Frame:
        """Return frame ``index``, uint8 RGB (H, W, 3)."""
        packed = np.frombuffer(self.frames[index], np.uint8)
        decoded = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
        return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def open_footage(options: FootageOptions) -> Sources:
    """Open pairs of frames of what ``options.data`` holds; the end of every shot is held out.

    Raises:
        ConfigError: no ``data``.
        DataError: no two neighboring frames in it that are large enough.
        VideoError: a source that cannot be read.
    """
    if options.data is None:
        raise ConfigError("stage footage needs --data: a video, a folder of images, or a folder of either")
    crop = (options.height, options.width)
    places = find_footage(options.data)
    shots = [shot for place in places for shot in read_shots(place, crop, MOST_FRAMES // len(places))]
    training, kept = [], []
    for shot in shots:
        split = len(shot.frames) - round(options.held_out * len(shot.frames))
        training.append(Shot(shot.name, shot.frames[:split]))
        kept.append(Shot(shot.name, shot.frames[split:]))
    pairs = FootagePairs(training, crop, seed=options.seed)
    held_out = [(shot, first) for shot in kept for first in range(len(shot.frames) - 1)]
    chosen = spread(held_out, options.validation_pairs)
    frames = sum(len(shot.frames) for shot in shots)
    return Sources(
        training=pairs,
        held_out=(HeldOut(lambda index: middle(*chosen[index], crop), len(chosen)),),
        epoch=None,
        identity={
            "footage": digest([f"{shot.name}: {len(shot.frames)}" for shot in shots]),
            "held out": digest([f"{shot.name}: {first}" for shot, first in held_out]),
        },
        summary=f"footage without ground truth: {frames} frames, {len(shots)} shots, "
        f"{len(chosen)} pairs held out",
    )


def find_footage(place: Path) -> list[Path]:
    """Videos and folders of images at or under a place, in natural order.

    Raises:
        DataError: nothing there.
    """
    if place.is_file():
        return [place]
    folders = [place, *(entry for entry in visible(place, "**/*") if entry.is_dir())]
    found: list[Path] = []
    for folder in sorted(folders, key=lambda entry: [natural_key(Path(part)) for part in entry.parts]):
        files = sorted((entry for entry in visible(folder) if entry.is_file()), key=natural_key)
        if sum(file.suffix.lower() in IMAGE_SUFFIXES for file in files) > 1:
            found.append(folder)
        found += [file for file in files if (mimetypes.guess_type(file.name)[0] or "").startswith("video/")]
    if not found:
        raise DataError(f"{place} holds neither videos nor folders of images")
    return found


def read_shots(place: Path, crop: tuple[int, int], most: int) -> Iterator[Shot]:
    """Yield the takes of one source, cut where the scene changes.

    Args:
        place: a video or a folder of images.
        crop: height and width that must fit into a frame.
        most: frames to read.

    Raises:
        DataError: frames smaller than the crop.
        VideoError: what cannot be read.
    """
    source = open_video(place)
    height, width = source.size
    if height < crop[0] or width < crop[1]:
        raise DataError(
            f"{place} has frames of {width}x{height} pixels, which crops of {crop[1]}x{crop[0]} do not "
            "fit into: give a smaller --width and --height"
        )
    scale = min(1.0, ROOM * max(crop[0] / height, crop[1] / width))
    size = (max(crop[1], round(scale * width)), max(crop[0], round(scale * height)))
    frames: list[bytes] = []
    last: torch.Tensor | None = None
    number = 0
    for count, taken in enumerate(source.frames()):
        if count == most:
            break
        frame = taken.image
        if scale < 1:
            frame = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
        gray = torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)).float()[None, None]
        still = torch.zeros(1, 2, *gray.shape[-2:])
        if not taken.follows or (last is not None and is_cut(last, gray, still)):
            if len(frames) > 1:
                yield Shot(f"{place.name} {number}", frames)
            frames, number = [], count
        frames.append(pack(frame))
        last = gray
    if len(frames) > 1:
        yield Shot(f"{place.name} {number}", frames)


def is_cut(last: Tensor, new: Tensor, flow: Tensor) -> bool:
    """Tell whether a new scene begins: the new frame resembles neither the last nor where its motion leads.

    Both comparisons are made on thumbnails. It is a cut if their correlation is below 0.5 and they differ by
    more than 8 gray levels on average. (Correlation, as it is blind to flashes and exposure. Neighboring
    frames of ordinary video stay above 0.9, fast motion at ten frames per second above 0.7; 95 % of unrelated
    pairs are below 0.4. A start from the wrong state mostly costs some steps: the solver still iterates.)

    Args:
        last: brightness 0..255 on the flow's grid, (1, 1, h, w).
        new: the same of the new frame.
        flow: (1, 2, h, w), expected to lead from the last to the new frame.
    """
    moved, weight = forward_splat(last, flow)
    predicted = torch.where(weight > 0.5, moved, last)
    return all(_differ(old, new) for old in (last, predicted))


def _differ(first: Tensor, second: Tensor) -> bool:
    height, width = first.shape[-2:]
    factor = max(1.0, max(height, width) / _THUMBNAIL)
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    a, b = (F.adaptive_avg_pool2d(image, size).flatten() for image in (first, second))
    if float((a - b).abs().mean()) <= _CUT_DIFFERENCE:
        return False
    a, b = a - a.mean(), b - b.mean()
    correlation = float(a @ b / (a.norm() * b.norm()).clamp_min(1e-6))
    return correlation < _CUT_CORRELATION


def pack(frame: Frame) -> bytes:
    """Return a frame as a PNG file, quickly rather than small."""
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    return cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()


class FootagePairs(Dataset[Sample]):
    """Crops of two frames of a shot, in either order of time; pair ``n`` is a function of (seed, n).

    Args:
        shots: to draw from, each frame as likely as any other.
        crop: height and width.
        seed: of every draw.

    Raises:
        DataError: no shot with two frames.
    """

    def __init__(self, shots: Sequence[Shot], crop: tuple[int, int], *, seed: int) -> None:
        self.shots = [shot for shot in shots if len(shot.frames) > 1]
        if not self.shots:
            raise DataError("the footage holds no two neighboring frames to train on")
        self.crop, self.seed = crop, seed
        self._ends = np.cumsum([len(shot.frames) - 1 for shot in self.shots])

    def __getitem__(self, number: int) -> Sample:
        """Return pair ``number`` of the run."""
        draw = np.random.default_rng([self.seed, number])
        first = int(draw.integers(self._ends[-1]))
        which = int(np.searchsorted(self._ends, first, side="right"))
        shot = self.shots[which]
        first -= int(self._ends[which - 1]) if which else 0
        order = (first, first + 1) if draw.random() < 0.5 else (first + 1, first)
        one, two = (shot[index] for index in order)
        height, width = self.crop
        top, left = (int(draw.integers(0, one.shape[axis] - self.crop[axis] + 1)) for axis in (0, 1))
        one, two = (frame[top : top + height, left : left + width] for frame in (one, two))
        if draw.random() < 0.5:
            one, two = (np.ascontiguousarray(frame[:, ::-1]) for frame in (one, two))
        return unlabeled(one, two, f"{shot.name} {order[0]} {order[1]}")


def middle(shot: Shot, first: int, crop: tuple[int, int]) -> Sample:
    """Return the middle of frame ``first`` and its successor."""
    one, two = shot[first], shot[first + 1]
    top, left = ((one.shape[axis] - crop[axis]) // 2 for axis in (0, 1))
    inner = (slice(top, top + crop[0]), slice(left, left + crop[1]))
    return unlabeled(one[inner], two[inner], f"{shot.name} {first}")


def unlabeled(frame1: Frame, frame2: Frame, name: str) -> Sample:
    """Return a pair whose flow is unknown everywhere."""
    size = frame1.shape[:2]
    return Sample(frame1, frame2, np.zeros((*size, 2), np.float32), np.zeros(size, bool), name=name)
