"""Renders motion in implicit keypoints onto a portrait, picture or film, by LivePortrait's networks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...face.pasting import NETWORK_CROP_FEATHER, paste_crops
from ...motion.keypoint_driving import moved_readings
from ...motion.keypoint_extraction import batched
from ...motion.regions import scale_motion
from ...types import FaceMotion, Portrait, PortraitVideo, ProgressCallback, portraits_of
from ..mesh import STRENGTH_RANGE
from ..source_video import video_rows
from .portrait_reading import appearance_features, read_portrait

if TYPE_CHECKING:
    import torch

    from ...motion.motion_extractor import MotionExtractor
    from .appearance import AppearanceFeatureExtractor
    from .frame_generator import FrameGenerator
    from .prepared_source import Check, PreparedSource

GENERATED_SIZE = 512
FRAME_BYTES = 900 << 20
"""Working memory that one more frame of a batch takes on an accelerator, in float32."""
LARGEST_BATCH = 16
MEMORY_SHARE = 0.5
"""Share of the free memory that a batch may take."""


@dataclass(frozen=True)
class KeypointNetworks:
    """The networks that rendering needs, on one device."""

    appearance: AppearanceFeatureExtractor
    motion_extractor: MotionExtractor
    frame_generator: FrameGenerator


@dataclass(frozen=True)
class KeypointRendererParameters:
    """How LivePortrait's frames are made.

    expression_strength, head_strength: multiply expression and head movement, 0..2.
    paste_back: lay the generated crops back over the whole picture; False gives the crops, 512 x 512.
    feather: width of the soft edge as a share of the crop's side, 0..0.5.
    batch: frames generated at once; 0 chooses by the device's free memory.
    """

    expression_strength: float = 1.0
    head_strength: float = 1.0
    paste_back: bool = True
    feather: float = NETWORK_CROP_FEATHER
    batch: int = 0

    def __post_init__(self) -> None:
        for name in ("expression_strength", "head_strength"):
            low, high = STRENGTH_RANGE
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}")
        if not 0 <= self.feather <= 0.5:
            raise ValueError(f"feather is {self.feather}, expected a share of the crop's side from 0 to 0.5")
        if self.batch < 0:
            raise ValueError(f"batch is {self.batch}, expected 0 (automatic) or more")


class KeypointRenderer:
    """Renders motion onto one portrait. What depends on a picture alone is worked out once, here."""

    def __init__(
        self,
        portrait: Portrait | PortraitVideo,
        networks: KeypointNetworks,
        parameters: KeypointRendererParameters | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Read the portrait; a film's frames are read here too, and their appearance when they are rendered."""
        self.portrait = portrait
        self.portraits = portraits_of(portrait)
        self.networks = networks
        self.parameters = parameters or KeypointRendererParameters()
        self.readings = read_portrait(portrait, networks.motion_extractor, progress)
        self._still = self._prepared(0) if len(self.portraits) == 1 else None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.portraits[0].size if self.parameters.paste_back else (GENERATED_SIZE, GENERATED_SIZE)

    def frames(self, motion: FaceMotion, progress: ProgressCallback | None = None) -> Iterator[np.ndarray]:
        """Yield every frame of a motion as (H, W, 3) uint8 RGB; a batch of them is held at a time.

        A film that is shorter than the motion is shown backwards from its end, and forwards again.
        progress: called before each frame with (done, total) and, while a frame is generated, again and again with
        the same; it may raise to cancel.
        Raises ValueError for motion in another space.
        """
        rows = video_rows(motion.frame_count, self.portrait)
        keypoints = moved_readings(self.readings.rows(rows), self._weighted(motion)).keypoints
        crops = self._crops(keypoints, rows, progress)
        if not self.parameters.paste_back:
            return crops
        return paste_crops(self.portrait, crops, len(rows), feather=self.parameters.feather)

    def _weighted(self, motion: FaceMotion) -> FaceMotion:
        expression, head = self.parameters.expression_strength, self.parameters.head_strength
        gains = {
            "lips": expression,
            "jaw": expression,
            "brows": expression,
            "cheeks": expression,
            "pose": head,
        }
        return motion if expression == head == 1 else scale_motion(motion, gains)

    def _crops(
        self, keypoints: np.ndarray, rows: np.ndarray, progress: ProgressCallback | None
    ) -> Iterator[np.ndarray]:
        done = 0
        for batch in batched(range(len(rows)), self._batch_size()):
            check = None if progress is None else lambda done=done: progress(done, len(rows))
            crops = self._generated(batch, keypoints, rows, check)
            for crop in crops:
                if progress is not None:
                    progress(done, len(rows))
                yield crop
                done += 1
        if progress is not None:
            progress(done, len(rows))

    def _generated(
        self, batch: list[int], keypoints: np.ndarray, rows: np.ndarray, check: Check | None
    ) -> np.ndarray:
        """Return the crops of a batch of frames, (B, 512, 512, 3) uint8."""
        import torch

        from .frame_generator import images_as_bytes

        generator = self.networks.frame_generator
        source = self._still if self._still is not None else self._prepared(int(rows[batch[0]]))
        driven = torch.from_numpy(keypoints[batch]).float().to(source.keypoints.device)
        with torch.inference_mode():
            images = generator.generate(source, driven, check)
            return images_as_bytes(images).cpu().numpy()

    def _prepared(self, index: int) -> PreparedSource:
        """Return what the generator needs of frame `index` of the portrait."""
        import torch

        (features,) = appearance_features([self.portraits[index]], self.networks.appearance)
        points = torch.from_numpy(self.readings.rows(np.array([index])).keypoints).float()
        with torch.inference_mode():
            return self.networks.frame_generator.prepare(features, points.to(features.device))

    def _batch_size(self) -> int:
        """A film's frames have each an appearance of their own and go one by one."""
        if self._still is None:
            return 1
        if self.parameters.batch:
            return self.parameters.batch
        return automatic_batch(self._still.keypoints.device)


def automatic_batch(device: torch.device) -> int:
    """Return how many frames to generate at once: one on a CPU, on an accelerator as many as fit well."""
    import torch

    if device.type != "cuda":
        return 1
    free, _ = torch.cuda.mem_get_info(device)
    return int(np.clip(MEMORY_SHARE * free / FRAME_BYTES, 1, LARGEST_BATCH))
