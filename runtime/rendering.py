"""Motion onto a portrait by any renderer, one frame at a time, with the sound that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .host import host

if TYPE_CHECKING:
    import numpy as np

    from ..core_models.audio.decode import Sound
    from ..core_models.types import (
        FaceMotion,
        Portrait,
        PortraitVideo,
        ProgressCallback,
        RendererModels,
    )
    from .host import Progress


@dataclass(frozen=True)
class DrawnMotion:
    """Motion on its way to frames. frames: (H, W, 3) uint8 RGB, drawn as they are asked for and shown as previews.

    size: width and height in pixels. fps, frame_count: of the frames. sound: of equal length, None when none was given.
    """

    frames: Iterator[np.ndarray]
    size: tuple[int, int]
    fps: float
    frame_count: int
    sound: Sound | None


@contextmanager
def drawn_motion(
    portrait: Portrait | PortraitVideo,
    motion: FaceMotion,
    sound: Sound | None,
    renderer: RendererModels | None,
    paste_back: bool,
    **settings: Any,
) -> Iterator[DrawnMotion]:
    """Give a motion drawn onto a portrait, with the host's progress; networks stay for the `with`.

    settings: interpolation, expression_strength and head_strength, as of `opened_renderer`.
    Raises ValueError for motion of the other space, before any network is loaded or film read.
    """
    motion, sound = motion_and_sound(portrait, motion, sound)
    require_fitting_space(motion, renderer)
    reading = host().progress(1).update
    with opened_renderer(portrait, renderer, paste_back, progress=reading, **settings) as drawing:
        frames = previewed_frames(drawing.frames, motion, host().progress(motion.frame_count))
        yield DrawnMotion(frames, drawing.size, float(motion.fps), motion.frame_count, sound)


def motion_and_sound(
    portrait: Portrait | PortraitVideo, motion: FaceMotion, sound: Sound | None
) -> tuple[FaceMotion, Sound | None]:
    """Return motion at a film's own rate and sound of equal length, as `match_motion_to_sound` makes them."""
    from ..core_models.motion.with_sound import match_motion_to_sound
    from ..core_models.rendering.source_video import motion_at_video_rate

    motion = motion_at_video_rate(motion, portrait)
    return (motion, None) if sound is None else match_motion_to_sound(motion, sound)


def require_fitting_space(motion: FaceMotion, renderer: RendererModels | None) -> None:
    """Raise ValueError for motion of the other space, before any network is loaded or film read."""
    from ..core_models.types import RendererModels

    motion.require_space((renderer or RendererModels()).space)


@contextmanager
def opened_renderer(
    portrait: Portrait | PortraitVideo,
    renderer: RendererModels | None,
    paste_back: bool,
    interpolation: str,
    progress: ProgressCallback | None = None,
    **strengths: float,
) -> Iterator[Any]:
    """Give the renderer of a portrait: with `size` and `frames(motion, progress)`; networks stay for the `with`.

    renderer: None is the mesh renderer. paste_back: LivePortrait's. interpolation: the mesh renderer's. progress: of
    reading a film. strengths: expression_strength and head_strength.
    """
    from ..core_models.types import MESH_RENDERER

    if renderer is None or renderer.kind == MESH_RENDERER:
        yield _mesh_renderer(portrait, interpolation, **strengths)
        return
    from ..core_models.rendering.liveportrait.keypoint_renderer import (
        KeypointRenderer,
        KeypointRendererParameters,
    )
    from .renderer_models import keypoint_networks

    parameters = KeypointRendererParameters(paste_back=paste_back, **strengths)
    with keypoint_networks(renderer) as networks:
        yield KeypointRenderer(portrait, networks, parameters, progress)


def _mesh_renderer(portrait: Portrait | PortraitVideo, interpolation: str, **strengths: float) -> Any:
    from ..core_models.rendering.mesh import MeshRenderer, MeshRendererParameters
    from ..core_models.rendering.mesh_video import MeshVideoRenderer
    from ..core_models.types import PortraitVideo

    parameters = MeshRendererParameters(interpolation=interpolation, **strengths)
    if isinstance(portrait, PortraitVideo):
        return MeshVideoRenderer(portrait, parameters)
    return MeshRenderer(portrait, parameters)


def previewed_frames(
    frames_of: Callable[..., Iterator[np.ndarray]], motion: FaceMotion, progress: Progress
) -> Iterator[np.ndarray]:
    """Yield the frames, (H, W, 3) uint8 RGB, showing each as a preview; cancelling raises from here."""
    for done, frame in enumerate(frames_of(motion, lambda done, total: host().check_cancelled()), start=1):
        yield frame
        progress.update(done, motion.frame_count, preview=frame)
