"""The synthetic stage: scenes without end, textures shared out between training and held-out scenes."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from deqflow.data.synthetic import MOTIONS, SyntheticScenes, Textures
from deqflow.training.options import TrainOptions
from deqflow.training.sources import Sources, digest

HELD_OUT_SEED = 2_000_003
"""Added to the seed for the scenes that are never trained on."""
HELD_OUT_EVERY = 16
"""One in so many photos and cut-outs is kept for the held-out scenes."""


def open_scenes(options: TrainOptions) -> Sources:
    """Training scenes, and held-out ones of another seed, usual motion and textures never trained on.

    Raises:
        DataError: textures that cannot be used.
    """
    folder = options.textures
    every = Textures() if folder is None else Textures.from_folder(folder, options.permissive_only)
    textures, kept = (split_textures(every, held_out=flag) for flag in (False, True))
    size = (options.height, options.width)
    counts = f"{len(textures.photos)} photos, {len(textures.objects)} cut-outs"
    licence = "permissive licences only" if options.permissive_only else "all licences"
    names = [path.name for path in (*every.photos, *every.objects)]
    held_out = SyntheticScenes(kept, *size, seed=options.seed + HELD_OUT_SEED)
    config = MOTIONS[options.scenes]
    training = SyntheticScenes(
        textures, *size, seed=options.seed, config=config, bidirectional=options.bidirectional
    )
    return Sources(
        training=training,
        held_out=held_out.__getitem__,
        held_out_pairs=options.validation_pairs,
        epoch=None,
        identity={
            "scenes": scenes_fingerprint(options.scenes),
            "textures": f"{counts}, {digest(names)}",
            "held out": f"{options.width}x{options.height}, {scenes_fingerprint()}, {digest(names)}",
        },
        summary="synthetic scenes" if options.scenes == "usual" else f"{options.scenes} synthetic scenes",
        textures=f"{counts}, {licence}",
    )


def split_textures(textures: Textures, *, held_out: bool) -> Textures:
    """The photos and cut-outs to train on, or those kept back; a list of one serves both."""

    def part(files: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(f for i, f in enumerate(files) if (i % HELD_OUT_EVERY == 0) == held_out) or files

    return replace(textures, photos=part(textures.photos), objects=part(textures.objects))


@cache
def scenes_fingerprint(motion: str = "usual") -> str:
    """Return a digest of a few small scenes: another version or configuration renders others."""
    scenes = SyntheticScenes(Textures(), 48, 48, seed=1, config=MOTIONS[motion])
    hashed = hashlib.sha256()
    for index in range(8):
        sample = scenes[index]
        for array in (sample.frame1, sample.frame2, sample.flow):
            hashed.update(array.tobytes())
    return hashed.hexdigest()[:16]
