"""The motion of a face in a film, in the space of what will draw it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..core_models.face.landmarker import DetectedFace
    from ..core_models.motion.keypoints_from_video import DriverParameters, Frames
    from ..core_models.types import FaceMotion, ProgressCallback, RendererModels


def driving_motion(
    frames: Frames,
    faces: Iterable[DetectedFace | None],
    fps: float,
    frame_total: int,
    parameters: DriverParameters,
    calibrate: bool = True,
    renderer: RendererModels | None = None,
    progress: ProgressCallback | None = None,
) -> FaceMotion:
    """Return the motion of one face in a film, away from the driver's rest, at the film's rate.

    In implicit keypoints where the renderer is LivePortrait, else in blendshapes. frames: gives the film anew each time
    it is called; needed for implicit keypoints only. faces: the face in each frame, None where it is missing.
    calibrate: of blendshapes, whether the driver's resting face is taken as the rest.
    Raises what `motion_from_faces` and `keypoint_motion_from_frames` raise.
    """
    from ..core_models.motion.from_video import motion_from_faces
    from ..core_models.motion.keypoints_from_video import keypoint_motion_from_frames
    from ..core_models.types import MESH_RENDERER
    from .renderer_models import motion_extractor

    if renderer is None or renderer.kind == MESH_RENDERER:
        choices = (parameters.on_missing_face, parameters.smoothing, calibrate)
        return motion_from_faces(faces, fps, frame_total, *choices, progress)
    with motion_extractor(renderer) as extractor:
        return keypoint_motion_from_frames(frames, faces, fps, extractor, frame_total, parameters, progress)
