"""``deqflow demo``: flow videos of the clips that come with the package, with and without reuse."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from deqflow.commands.common import EstimatorOptions, check_folder_names, prepare_outputs
from deqflow.commands.pairs import Image
from deqflow.commands.video import flow_video
from deqflow.commands.video_options import VideoOptions
from deqflow.commands.video_record import PairRecord, print_costs
from deqflow.errors import DataError
from deqflow.io import write_image


@dataclass(frozen=True, kw_only=True)
class DemoOptions(EstimatorOptions):
    """Flow videos of the clips that come with the package, and what they cost with and without reuse.

    Replaces what an earlier demo wrote.

    Attributes:
        output: Folder for a video and a still picture of each clip.
        max_frames: Read no more frames than this of each clip.
    """

    output: Path = Path("output/demo")
    max_frames: int | None = None


def run(options: DemoOptions) -> int:
    """Estimate and write; the exit code.

    Raises:
        DeqflowError, OSError: the clips, the weights or the output folder; said in one sentence.
    """
    check_folder_names(output=options.output)
    clips = demo_clips()
    outputs = {clip: options.output / f"{clip.stem}_flow.mp4" for clip in clips}
    stills = {clip: options.output / f"{clip.stem}_flow.png" for clip in clips}
    prepare_outputs([*outputs.values(), *stills.values()], overwrite=True)
    model = options.load()
    records: dict[Path, list[PairRecord]] = {}
    for clip in clips:
        video = VideoOptions(
            source=str(clip),
            model=options.model,
            checkpoint=options.checkpoint,
            compare=True,
            overwrite=True,
            quiet=options.quiet,
            max_frames=options.max_frames,
            max_side=options.max_side,
            steps=options.steps,
            tolerance=options.tolerance,
            max_flow=options.max_flow,
            legend=options.legend,
        )

        source = video.open()
        middle = max(1, (source.frame_count or 2) // 2)

        def keep(number: int, picture: Image, middle: int = middle, still: Path = stills[clip]) -> None:
            if number == middle:
                write_image(still, picture)

        records[clip] = flow_video(video, source, outputs[clip], model, watch=keep)
    if options.quiet:
        return 0
    for clip, measured in records.items():
        print(f"\n{clip.stem}: one row per pair of frames; the columns 'from zero' are without reuse")
        print_costs(measured)
    print("\nFrame, and flow in the color wheel (hue is direction, saturation is speed):")
    for clip in clips:
        print(f"  {outputs[clip].resolve()}\n  {stills[clip].resolve()}")
    return 0


def demo_clips() -> list[Path]:
    """Find the clips, in the installed package or beside it in a checkout."""
    package = Path(str(resources.files("deqflow")))
    for folder in (package / "demo", package.parent / "demo"):
        clips = sorted(folder.glob("*.mp4"))
        if clips:
            return clips
    raise DataError("the demo clips are missing from this installation of deqflow")
