"""Motion fitted to one portrait for what will draw it: stitched, or brought from blendshapes to implicit keypoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core_models.types import FaceMotion, Portrait, PortraitVideo, ProgressCallback, RendererModels


def fitted_motion(
    motion: FaceMotion,
    portrait: Portrait | PortraitVideo,
    renderer: RendererModels,
    settings: Mapping[str, Any],
    progress: ProgressCallback | None = None,
) -> FaceMotion:
    """Return a driver's motion fitted to a portrait as `stitched_motion` does; unchanged for the mesh renderer.

    settings: fields of DrivingParameters by name.
    Raises ValueError for motion that is not in the renderer's space, and as `stitched_motion`.
    """
    from ..core_models.motion.keypoint_driving import DrivingParameters
    from ..core_models.rendering.liveportrait.portrait_motion import stitched_motion
    from ..core_models.types import MESH_RENDERER
    from .renderer_models import motion_extractor, retargeting_networks

    motion.require_space(renderer.space)
    if renderer.kind == MESH_RENDERER:
        return motion
    parameters = DrivingParameters(**settings)
    with motion_extractor(renderer) as extractor, retargeting_networks(renderer) as networks:
        return stitched_motion(motion, portrait, parameters, extractor, networks, progress)


def motion_for_renderer(
    motion: FaceMotion,
    portrait: Portrait | PortraitVideo,
    renderer: RendererModels,
    strength: float = 1.0,
    calibration: Path | None = None,
) -> FaceMotion:
    """Return motion in the renderer's space: blendshapes become implicit keypoints, what fits stays as it is.

    portrait: who is to move; of a film its first frame counts. strength: factor for the expression. calibration: a
    file that `talking-portrait calibrate` wrote; None is the shipped table.
    Raises ValueError for implicit keypoints before the mesh renderer, and as `load_basis` and `retarget_motion`.
    """
    from ..core_models.motion.blendshape_retargeting import default_basis, face_geometry, retarget_motion
    from ..core_models.motion.retargeting_calibration import load_basis
    from ..core_models.types import BLENDSHAPES, portraits_of

    if motion.space == renderer.space:
        return motion
    motion.require_space(BLENDSHAPES)
    basis = default_basis() if calibration is None else load_basis(calibration)
    return retarget_motion(motion, basis, face_geometry(portraits_of(portrait)[0]), strength)
