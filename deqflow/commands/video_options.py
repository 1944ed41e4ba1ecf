"""Options of ``deqflow video``, which everything else about the command reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from deqflow.commands.common import EstimatorOptions, check_folder_names
from deqflow.errors import ConfigError
from deqflow.io import Deinterlace, VideoSource, open_video
from deqflow.io.clip_file import CLIP_SUFFIXES, check_clip_library
from deqflow.io.flow_files import SUFFIXES
from deqflow.io.images import SMALLEST_SIDE
from deqflow.visualize import PICTURES

if TYPE_CHECKING:
    from deqflow.stream import Direction

    FlowFormatName = str
    Layout = str
else:
    Layout = tyro.extras.literal_type_from_choices(PICTURES)
    FlowFormatName = tyro.extras.literal_type_from_choices(SUFFIXES)


@dataclass(frozen=True, kw_only=True)
class VideoOptions(EstimatorOptions):
    """Flow of a video: every solve starts from where the one before ended, carried along the motion.

    Attributes:
        source: A video file (whatever FFmpeg reads), a folder or pattern of images, a webcam's index, or -
            for standard input.
        output: What to write: .mp4, .mov, .mkv, .webm, .gif, .webp, or .png for an image per pair; or a
            folder for an mp4. Ctrl-C ends it early; it plays.
        layout: What the video shows: color is the flow alone, in the usual color wheel; side-by-side has the
            frame beside it; arrows and overlay lie on the frame; warped is frame 2 carried back, which should
            be frame 1; occlusion is where forward and backward flow disagree, uncertainty the error that the
            model expects of itself, movement how far one more step would move the flow. Of several there is a
            video each, named after them.
        color_scale: What is drawn at full saturation: running follows the motion, calmly within a shot and
            anew after a cut; clip is one length for the whole clip, from a first look at some of its pairs.
        direction: forward is the flow from a frame to the next, backward that from the next back to it; of
            both there are two of every result, those of the flow back named with _backward, and columns of
            frames.csv.
        reuse: Start each solve from the last one's fixed point.
        compare: Also solve every pair from zero, and print what both cost in evaluations and milliseconds.
        flow_dir: Folder for files of numbers per pair of frames, named after the number of its first frame.
        flow_format: Of the flow files in it.
        flow_size: Of the numbers: that of the frames that were solved, or that of the source, where frames
            are scaled by --max-side or --resize.
        numbers: What to write in --flow-dir and --hdf5: flow; uncertainty, the error in pixels that the model
            expects (.npy); occlusion, true where flow forward and back do not return to within
            sqrt(0.01 (|f|^2 + |b|^2) + 0.5) pixels (Sundaram 2010) or leave the frame (.npy).
        hdf5: One file for the numbers of all pairs, .h5: datasets forward/flow (pair, H, W, 2) and so on.
        resume: Continue a run of the same command that was broken off (Ctrl-C, kill, full disk): what comes
            out is what an unbroken run would have written.
        segment: Pairs after which a run can be continued; a broken one repeats fewer than these.
        record_dir: Folder for frames.csv, a row per pair (time, evaluations, residual, cuts, motion, ...),
            and manifest.json (hashes of source and weights, settings, versions, counts, warnings).
        start: Where to begin: seconds (12.5), a time (1:02:03.5) or the number of a frame (300f).
        end: Where to stop, before the frame that is there.
        stride: Take every so many frames.
        max_frames: Read no more frames than this.
        roi: Left, top, width and height of the part of every frame to read, pixels.
        resize: Width and height to scale frames to; they are shown in the shape that they have.
        fps: Frames per second, instead of the times that the source gives (image sequences: 25).
        stream: Index of the video stream; without it, the largest that is not an attached picture.
        deinterlace: Make whole pictures of the frames that say that they are interlaced, of all, or of none.
    """

    source: tyro.conf.Positional[str]
    output: Path = Path("output")
    layout: tuple[Layout, ...] = ("side-by-side",)
    color_scale: Literal["running", "clip"] = "running"
    direction: Literal["forward", "backward", "both"] = "forward"
    reuse: bool = True
    compare: bool = False
    flow_dir: Path | None = None
    flow_format: FlowFormatName = "flo"
    flow_size: Literal["frames", "source"] = "frames"
    numbers: tuple[Literal["flow", "uncertainty", "occlusion"], ...] = ("flow",)
    hdf5: Path | None = None
    record_dir: Path | None = None
    resume: bool = False
    segment: int = 24
    start: str | None = None
    end: str | None = None
    stride: int = 1
    max_frames: int | None = None
    roi: tuple[int, int, int, int] | None = None
    resize: tuple[int, int] | None = None
    fps: float | None = None
    stream: int | None = None
    deinterlace: Deinterlace = "auto"

    def __post_init__(self) -> None:
        """Reject what cannot be run, naming the option."""
        super().__post_init__()
        if self.max_frames is not None and self.max_frames < 2:
            raise ConfigError(f"--max-frames must be at least 2, got {self.max_frames}")
        check_folder_names(flow_dir=self.flow_dir, record_dir=self.record_dir)
        for option, chosen in (("layout", self.layout), ("numbers", self.numbers)):
            if not chosen or len(set(chosen)) < len(chosen):
                raise ConfigError(f"--{option} must name different things, got {' '.join(chosen) or 'none'}")
        if self.numbers != ("flow",) and self.flow_dir is None and self.hdf5 is None:
            raise ConfigError("--numbers go to --flow-dir or --hdf5: give one of them")
        if self.hdf5 is not None:
            if self.hdf5.suffix.lower() not in CLIP_SUFFIXES:
                raise ConfigError(f"--hdf5 {self.hdf5}: expected a name ending in {', '.join(CLIP_SUFFIXES)}")
            check_clip_library("--hdf5")
        if self.color_scale == "clip" and self.max_flow is not None:
            raise ConfigError("--color-scale clip and --max-flow both say what is full color: give one")
        if self.segment < 1:
            raise ConfigError(f"--segment must be at least 1, got {self.segment}")
        if self.stride < 1:
            raise ConfigError(f"--stride must be at least 1, got {self.stride}")
        if self.resize is not None and self.max_side is not None:
            raise ConfigError("--resize and --max-side both say the size of the frames: give one")
        if self.resize is not None and min(self.resize) < SMALLEST_SIDE:
            width, height = self.resize
            raise ConfigError(f"--resize must be at least {SMALLEST_SIDE} each way, got {width}x{height}")
        if self.compare and not self.reuse:
            raise ConfigError("--compare needs reuse: it compares with and without")

    @property
    def directions(self) -> "tuple[Direction, ...]":
        """The directions to write, the one that records are of first."""
        return ("forward", "backward") if self.direction == "both" else (self.direction,)

    def open(self) -> VideoSource:
        """Open the source."""
        return open_video(
            self.source,
            fps=self.fps,
            stream=self.stream,
            deinterlace=self.deinterlace,
            start=self.start,
            end=self.end,
            stride=self.stride,
            max_frames=self.max_frames,
            roi=self.roi,
            resize=self.resize,
            max_side=self.max_side,
        )
