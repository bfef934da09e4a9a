"""The mesh renderer on a film: each frame's own face is warped, the film around it stays."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from ..types import BLENDSHAPES, FaceMotion, Portrait, PortraitVideo, ProgressCallback
from .head_turn import YAW_REFUSED
from .mesh import MeshRenderer, MeshRendererParameters

logger = logging.getLogger(__name__)


class MeshVideoRenderer:
    """Renders motion in blendshapes onto a film, frame by frame; a frame is prepared when its turn comes."""

    def __init__(self, video: PortraitVideo, parameters: MeshRendererParameters | None = None) -> None:
        self.video = video
        self.parameters = parameters or MeshRendererParameters()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.video.size

    def frames(self, motion: FaceMotion, progress: ProgressCallback | None = None) -> Iterator[np.ndarray]:
        """Yield every frame of a motion as (H, W, 3) uint8 RGB, one at a time.

        The motion counts from the face that each film frame shows, so that what it does not move stays the film's.
        Frames in which the head is turned too far to be warped stay as they are; the log says how many.
        `progress` is called before each frame with (done, total) and may raise to cancel.
        Raises ValueError for motion in another space.
        """
        motion.require_space(BLENDSHAPES)
        left = 0
        for index, row in enumerate(self.video.rows(motion.frame_count)):
            if progress is not None:
                progress(index, motion.frame_count)
            portrait = self.video.portraits[row]
            turned_away = abs(float(portrait.pose.rotation[1])) > YAW_REFUSED
            left += turned_away
            yield np.array(portrait.frame) if turned_away else self._rendered(portrait, motion, index)
        if left:
            logger.warning(
                "in %d of %d frames the head is turned more than %g degrees; they stay as filmed",
                *(left, motion.frame_count, YAW_REFUSED),
            )
        if progress is not None:
            progress(motion.frame_count, motion.frame_count)

    def _rendered(self, portrait: Portrait, motion: FaceMotion, index: int) -> np.ndarray:
        return MeshRenderer(portrait, self.parameters).render(motion, index)
