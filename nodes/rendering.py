"""Rendering: motion onto a portrait, as frames for the graph or straight into a video file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .liveportrait import OPTIONAL_RENDERER_INPUT

if TYPE_CHECKING:
    import numpy as np

    from ..core_models.types import FaceMotion, Portrait, PortraitVideo, RendererModels

CATEGORY = "TalkingPortrait/Rendering"

_STRENGTH = {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05}
_RENDER_INPUTS: dict[str, Any] = {
    "portrait": ("PORTRAIT", {"tooltip": "Who moves, from Portrait."}),
    "motion": ("FACE_MOTION", {"tooltip": "How the face moves; it gives the frame rate."}),
    "expression_strength": (
        "FLOAT",
        {**_STRENGTH, "tooltip": "Factor for mouth, brows and cheeks; lids and gaze are left alone."},
    ),
    "head_strength": ("FLOAT", {**_STRENGTH, "tooltip": "Factor for the head's movement; 0 holds it still."}),
    "interpolation": (
        ["cubic", "linear"],
        {
            "default": "cubic",
            "tooltip": "Mesh renderer: cubic is sharp; linear is quicker and slightly softer.",
        },
    ),
}
_AUDIO_INPUT = (
    "AUDIO",
    {"tooltip": "The sound. The shorter of sound and motion is lengthened: by silence, or by holding still."},
)
_RENDERER_INPUTS: dict[str, Any] = {
    "renderer": OPTIONAL_RENDERER_INPUT,
    "paste_back": (
        "BOOLEAN",
        {
            "default": True,
            "tooltip": "LivePortrait: lay the generated face back over the whole picture. Off: give the face crops, "
            "512 x 512.",
        },
    ),
}


class WarpingRenderer:
    """Frames of a portrait that moves."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Warps the portrait so that it moves, frame by frame: by the embedded mesh renderer, with no weights "
        "and no graphics card, or by LivePortrait's networks when they are connected. Connect frames, fps and "
        "audio to Create Video. For long videos use Render Talking Video, which keeps no frames in memory."
    )
    RETURN_TYPES = ("IMAGE", "FLOAT", "AUDIO")
    RETURN_NAMES = ("frames", "fps", "audio")
    OUTPUT_TOOLTIPS = (
        "One picture per frame of the motion.",
        "Frames per second.",
        "The sound, exactly as long as the frames; nothing when none is connected.",
    )
    FUNCTION = "render"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": dict(_RENDER_INPUTS), "optional": {"audio": _AUDIO_INPUT, **_RENDERER_INPUTS}}

    def render(
        self,
        portrait: Portrait | PortraitVideo,
        motion: FaceMotion,
        audio: dict[str, Any] | None = None,
        renderer: RendererModels | None = None,
        paste_back: bool = True,
        **settings: Any,
    ) -> tuple[Any, float, dict[str, Any] | None]:
        from ..core_models.audio.decode import sound_to_comfy
        from .images import image_from_frames

        motion, sound = _prepared_motion(portrait, motion, audio)
        _require_fitting_space(motion, renderer)
        with _opened_renderer(portrait, renderer, paste_back, **settings) as drawing:
            image = image_from_frames(_frames_with_preview(drawing.frames, motion), motion.frame_count)
        return image, float(motion.fps), sound_to_comfy(sound) if sound is not None else None


class RenderTalkingVideo:
    """A video file of a portrait that moves, written while it is rendered."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Renders the portrait straight into an mp4 in the output folder. Frames are written one by one, so "
        "that an hour needs no more memory than a second. The file carries the workflow: drop it on the "
        "canvas to get the graph back."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Path of the video.",)
    OUTPUT_NODE = True
    FUNCTION = "render"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                **_RENDER_INPUTS,
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "video/TalkingPortrait",
                        "tooltip": "Where in the output folder; a number and .mp4 are appended.",
                    },
                ),
            },
            "optional": {"audio": _AUDIO_INPUT, **_RENDERER_INPUTS},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def render(
        self,
        portrait: Portrait | PortraitVideo,
        motion: FaceMotion,
        filename_prefix: str,
        audio: dict[str, Any] | None = None,
        renderer: RendererModels | None = None,
        paste_back: bool = True,
        prompt: dict[str, Any] | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        from ..core_models.video_file import write_video
        from ..runtime.output_files import next_output_file, workflow_metadata

        motion, sound = _prepared_motion(portrait, motion, audio)
        _require_fitting_space(motion, renderer)
        with _opened_renderer(portrait, renderer, paste_back, **settings) as drawing:
            output = next_output_file(filename_prefix, ".mp4", drawing.size)
            frames = _frames_with_preview(drawing.frames, motion)
            write_video(output.path, frames, motion.fps, sound, workflow_metadata(prompt, extra_pnginfo))
        return {"ui": {"images": [output.reference], "animated": (True,)}, "result": (str(output.path),)}


def _prepared_motion(
    portrait: Portrait | PortraitVideo, motion: FaceMotion, audio: dict[str, Any] | None
) -> tuple[FaceMotion, Any]:
    """Return motion at a film's own rate and sound of equal length; the sound is None when there is no audio."""
    from ..core_models.audio.decode import sound_from_comfy
    from ..core_models.motion.with_sound import match_motion_to_sound
    from ..core_models.rendering.source_video import motion_at_video_rate

    motion = motion_at_video_rate(motion, portrait)
    return (motion, None) if audio is None else match_motion_to_sound(motion, sound_from_comfy(audio))


def _require_fitting_space(motion: FaceMotion, renderer: RendererModels | None) -> None:
    """Raise ValueError for motion of the other space, before any network is loaded or film read."""
    from ..core_models.types import RendererModels

    motion.require_space((renderer or RendererModels()).space)


@contextmanager
def _opened_renderer(
    portrait: Portrait | PortraitVideo,
    renderer: RendererModels | None,
    paste_back: bool,
    interpolation: str,
    **strengths: float,
) -> Iterator[Any]:
    """Give the renderer of a portrait: with `size` and `frames(motion, progress)`; networks stay for the `with`."""
    from ..core_models.types import MESH_RENDERER

    if renderer is None or renderer.kind == MESH_RENDERER:
        yield _mesh_renderer(portrait, interpolation, **strengths)
        return
    from ..core_models.rendering.liveportrait.keypoint_renderer import (
        KeypointRenderer,
        KeypointRendererParameters,
    )
    from ..runtime.host import host
    from ..runtime.renderer_models import keypoint_networks

    parameters = KeypointRendererParameters(paste_back=paste_back, **strengths)
    with keypoint_networks(renderer) as networks:
        yield KeypointRenderer(portrait, networks, parameters, host().progress(1).update)


def _mesh_renderer(portrait: Portrait | PortraitVideo, interpolation: str, **strengths: float) -> Any:
    from ..core_models.rendering.mesh import MeshRenderer, MeshRendererParameters
    from ..core_models.rendering.mesh_video import MeshVideoRenderer
    from ..core_models.types import PortraitVideo

    parameters = MeshRendererParameters(interpolation=interpolation, **strengths)
    if isinstance(portrait, PortraitVideo):
        return MeshVideoRenderer(portrait, parameters)
    return MeshRenderer(portrait, parameters)


def _frames_with_preview(
    frames_of: Callable[..., Iterator[np.ndarray]], motion: FaceMotion
) -> Iterator[np.ndarray]:
    """Yield the frames, showing progress and a live preview; cancelling raises from here."""
    from ..runtime.host import host

    progress = host().progress(motion.frame_count)
    for done, frame in enumerate(frames_of(motion, lambda done, total: host().check_cancelled()), start=1):
        yield frame
        progress.update(done, motion.frame_count, preview=frame)
