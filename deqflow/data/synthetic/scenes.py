"""The data set: endless pairs of frames with exact flow, each determined by (seed, index) alone."""

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from deqflow.data.sample import Sample
from deqflow.errors import ConfigError

from . import appearance
from .config import SceneConfig
from .layered import layered_scene
from .layers import Layer
from .motion import Homography, inverse
from .painter import Fog, Frame, Painter, occluded
from .planes import planes_scene
from .sequences import FRAMES, draw_course, positions, shoot, shoot_before
from .stopwatch import Stopwatch
from .textures import Surfaces, TextureCache, Textures, color

Floats = NDArray[np.float32]


@dataclass
class Recipe:
    """How a pair was made.

    Attributes:
        kind: layered, tiny, rush, still or planes.
        effects: what it contains and went through.
        watch: processor time by part.
        objects: how many things lie before the background (and the ground and the buildings).
        surfaces: uint8 (2, H, W), number of the surface seen in each frame, larger is nearer. Their edges are
            the edges of the flow.
    """

    kind: str
    effects: set[str] = field(default_factory=set)
    watch: Stopwatch = field(default_factory=Stopwatch)
    objects: int = 0
    surfaces: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((2, 0, 0), np.uint8))


class SyntheticScenes(Dataset[Sample]):
    """Layered and driving-like scenes with flow, occlusion and appearance effects.

    Args:
        textures: what surfaces and objects are cut from.
        height: of the frames, pixels.
        width: of the frames, pixels.
        seed: together with the index it determines a pair.
        config: how often things happen.
        bidirectional: give the flow from frame 2 to frame 1 as well.
        history: give the frame before the first as well.

    Raises:
        ConfigError: a frame below 32 pixels.
    """

    def __init__(
        self,
        textures: Textures,
        height: int,
        width: int,
        *,
        seed: int,
        config: SceneConfig | None = None,
        bidirectional: bool = False,
        history: bool = False,
    ) -> None:
        if min(height, width) < 32:
            raise ConfigError(f"synthetic scenes need frames of at least 32x32 pixels, not {width}x{height}")
        self.height, self.width, self.seed = height, width, seed
        self.bidirectional, self.history = bidirectional, history
        self.config = SceneConfig() if config is None else config
        cache = TextureCache(side=max(640, round(1.4 * max(height, width))))
        self._surfaces = Surfaces(
            textures, cache, self.config.procedural_probability, self.config.low_contrast_probability
        )

    def __len__(self) -> int:
        """Return the largest length a sampler can handle: there is no end."""
        return 2**31 - 1

    def __getitem__(self, index: int) -> Sample:
        """Return pair `index`."""
        return self.render(index)[0]

    def render(self, index: int) -> tuple[Sample, Recipe]:
        """Return pair `index` and how it was made."""
        # Content and appearance draw from separate streams: switching effects off leaves the scene as it is.
        content, look = (np.random.default_rng([self.seed, index, stream]) for stream in (0, 1))
        recipe = Recipe(self._kind(content))
        layers = self._layers(content, recipe)
        painter = self._painter(look, recipe)
        with recipe.watch.timed("paint"):
            first, second = painter.paint(layers, 0), painter.paint(layers, 1, flow=self.bidirectional)
        with recipe.watch.timed("occlusion"):
            occlusion = occluded(first, second)
        recipe.surfaces = np.stack([first.index, second.index])
        ground = layers[0].maps[1] @ inverse(layers[0].maps[0])
        shots = [first, second]
        if self.history:
            with recipe.watch.timed("frame before"):
                course = np.random.default_rng([self.seed, index, 2])
                shots.insert(0, shoot_before(painter, layers, course))
        images = [shot.image.astype(np.float32) for shot in shots]
        frames, erased = self._finish(look, recipe, ground, images)
        name = f"synthetic {self.seed}/{index}"
        sample = Sample(frames[-2], frames[-1], first.flow, first.valid, occlusion, name)
        if self.bidirectional:
            sample = replace(sample, backward=second.flow, backward_valid=second.valid & ~erased)
        if self.history:
            sample = replace(sample, before=frames[0])
        return sample, recipe

    def sequence(self, index: int) -> tuple[list[Sample], Recipe]:
        """Return the neighboring pairs of sequence `index`, of three to eight frames, and how it was made.

        Things move on, stop, start, turn back, move on twos or change speed, each as the whole or on its own;
        now and then there is a cut, across which no flow is valid. Nothing deforms.
        """
        content, look, course = (np.random.default_rng([self.seed, index, 3 + s]) for s in range(3))
        count = int(course.integers(FRAMES[0], FRAMES[1] + 1))
        cut = int(course.integers(1, count)) if course.random() < 0.1 else count
        motion = draw_course(course)
        title = "cut" if cut < count else motion
        recipe = Recipe(self._kind(content), {motion, title})
        shots: list[Frame] = []
        for part in (cut, count - cut):
            if part:
                layers = self._layers(content, recipe)
                groups = [layer.group for layer in layers]
                where = positions(course, motion, groups, max(part, 2))
                shots += shoot(self._painter(look, recipe), layers, where)[:part]
        images = [shot.image.astype(np.float32) for shot in shots]
        frames = self._encoded(look, recipe, self._camera(look, recipe, images))
        samples = []
        for number, (first, second) in enumerate(pairwise(shots)):
            valid = first.valid & (number != cut - 1)
            name = f"synthetic sequence {self.seed}/{index} {number}"
            samples.append(
                Sample(
                    frames[number],
                    frames[number + 1],
                    first.flow,
                    valid,
                    occluded(first, second) | ~valid,
                    name,
                    sequence=title,
                    index=number,
                )
            )
        return samples, recipe

    def _layers(self, rng: np.random.Generator, recipe: Recipe) -> list[Layer]:
        """Draw the scene of a recipe's kind."""
        size = (self.height, self.width)
        with recipe.watch.timed("scene"):
            if recipe.kind == "planes":
                layers, contents = planes_scene(rng, self.config, self._surfaces, *size)
            else:
                layers, contents = layered_scene(rng, self.config, self._surfaces, *size, recipe.kind)
        recipe.effects |= contents - {recipe.kind}
        recipe.objects = sum(layer.outline is None for layer in layers) - 1
        return layers

    def _kind(self, rng: np.random.Generator) -> str:
        config = self.config
        draw = rng.random()
        for kind in ("planes", "still", "tiny", "rush"):
            draw -= getattr(config, f"{kind}_probability")
            if draw < 0:
                return kind
        return "layered"

    def _happens(self, rng: np.random.Generator, recipe: Recipe, name: str) -> bool:
        happens = bool(rng.random() < getattr(self.config, f"{name}_probability"))
        if happens:
            recipe.effects.add(name.replace("_", " "))
        return happens

    def _painter(self, rng: np.random.Generator, recipe: Recipe) -> Painter:
        shutter = rng.uniform(*self.config.shutter) if self._happens(rng, recipe, "motion_blur") else 0.0
        fog = None
        if self._happens(rng, recipe, "fog"):
            density = rng.uniform(0.01, 0.08) if recipe.kind == "planes" else rng.uniform(0.2, 2.0)
            tint = (0.5 * color(rng) + 0.5 * rng.uniform(90, 230)).astype(np.float32)
            fog = Fog(tint, float(density))
        return Painter(self.height, self.width, shutter=float(shutter), fog=fog, watch=recipe.watch)

    def _finish(
        self, rng: np.random.Generator, recipe: Recipe, ground: Homography, images: list[Floats]
    ) -> tuple[list[NDArray[np.uint8]], NDArray[np.bool_]]:
        """Return the frames as a camera gives them, and where the last was painted over.

        `ground` is the motion of the background between the last two.
        """
        images = self._light(rng, recipe, ground, images)
        images = self._camera(rng, recipe, images)
        erased = np.zeros((self.height, self.width), np.bool_)
        if self._happens(rng, recipe, "eraser"):
            with recipe.watch.timed("eraser"):
                images[-1], erased = appearance.erase(rng, images[-1])
        return self._encoded(rng, recipe, images), erased

    def _encoded(
        self, rng: np.random.Generator, recipe: Recipe, images: list[Floats]
    ) -> list[NDArray[np.uint8]]:
        """Return frames as they are stored."""
        frames = [appearance.to_bytes(image) for image in images]
        if self._happens(rng, recipe, "jpeg"):
            with recipe.watch.timed("jpeg"):
                quality = int(rng.integers(25, 95))
                frames = [appearance.jpeg_of_bytes(image, quality) for image in frames]
        return frames

    def _light(
        self, rng: np.random.Generator, recipe: Recipe, ground: Homography, images: list[Floats]
    ) -> list[Floats]:
        """Apply what happens before the lens."""
        if self._happens(rng, recipe, "shade"):
            with recipe.watch.timed("shade"):
                images = appearance.shade(rng, images, ground if rng.random() < 0.5 else None)
        if self._happens(rng, recipe, "dark"):
            gain = np.float32(rng.uniform(0.12, 0.5))
            images = [image * gain for image in images]
        return images

    def _camera(self, rng: np.random.Generator, recipe: Recipe, images: list[Floats]) -> list[Floats]:
        """Apply lens, sensor and processing."""
        unit = self.width / 320
        if self._happens(rng, recipe, "defocus"):
            with recipe.watch.timed("defocus"):
                sigma = float(rng.uniform(0.5, 2.5) * unit)
                same = rng.random() < 0.7
                last = sigma if same else float(rng.uniform(0.4, 1.5) * unit)
                sigmas = [*[sigma] * (len(images) - 1), last]
                images = [appearance.defocus(image, s) for image, s in zip(images, sigmas, strict=True)]
        if self._happens(rng, recipe, "soft_video"):
            with recipe.watch.timed("soft video"):
                factor = float(rng.uniform(1.2, 2.5))
                images = [appearance.soft_video(image, factor) for image in images]
        if self._happens(rng, recipe, "vignette"):
            with recipe.watch.timed("vignette"):
                strength = float(rng.uniform(0.2, 0.8))
                images = [appearance.vignette(image, strength) for image in images]
        if self._happens(rng, recipe, "photometric"):
            with recipe.watch.timed("photometric"):
                state = int(rng.integers(2**31))
                images = [
                    appearance.photometric(np.random.default_rng(state), image, 1.0) for image in images
                ]
        if self._happens(rng, recipe, "asymmetric"):
            with recipe.watch.timed("asymmetric"):
                images[-1] = appearance.photometric(rng, images[-1], float(rng.uniform(0.1, 0.8)))
        if self._happens(rng, recipe, "sharpen"):
            with recipe.watch.timed("sharpen"):
                amount = float(rng.uniform(0.3, 1.5))
                images = [appearance.sharpen(image, amount) for image in images]
        if self._happens(rng, recipe, "noise"):
            with recipe.watch.timed("noise"):
                read, shot = float(rng.exponential(3.0)), float(rng.exponential(0.12))
                images = [appearance.noise(rng, image, read, shot) for image in images]
        return images
