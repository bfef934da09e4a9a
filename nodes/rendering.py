"""Rendering: motion onto a portrait, as frames for the graph or straight into a video file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ..core_models.rendering.mesh import MeshRenderer
    from ..core_models.types import FaceMotion, Portrait

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
        {"default": "cubic", "tooltip": "cubic is sharp; linear is quicker and slightly softer."},
    ),
}
_AUDIO_INPUT = (
    "AUDIO",
    {"tooltip": "The sound. The shorter of sound and motion is lengthened: by silence, or by holding still."},
)


class WarpingRenderer:
    """Frames of a portrait that moves."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Warps the portrait so that it moves, frame by frame, with no weights and no graphics card. Connect "
        "frames, fps and audio to Create Video. For long videos use Render Talking Video, which keeps no "
        "frames in memory."
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
        return {"required": dict(_RENDER_INPUTS), "optional": {"audio": _AUDIO_INPUT}}

    def render(
        self,
        portrait: Portrait,
        motion: FaceMotion,
        expression_strength: float,
        head_strength: float,
        interpolation: str,
        audio: dict[str, Any] | None = None,
    ) -> tuple[Any, float, dict[str, Any] | None]:
        from ..core_models.audio.decode import sound_to_comfy
        from .images import image_from_frames

        motion, sound = _equally_long(motion, audio)
        renderer = _mesh_renderer(portrait, expression_strength, head_strength, interpolation)
        frames = _frames_with_preview(renderer, motion)
        image = image_from_frames(frames, motion.frame_count)
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
            "optional": {"audio": _AUDIO_INPUT},
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    def render(
        self,
        portrait: Portrait,
        motion: FaceMotion,
        expression_strength: float,
        head_strength: float,
        interpolation: str,
        filename_prefix: str,
        audio: dict[str, Any] | None = None,
        prompt: dict[str, Any] | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        from ..core_models.video_file import write_video
        from ..runtime.output_files import next_output_file, workflow_metadata

        motion, sound = _equally_long(motion, audio)
        renderer = _mesh_renderer(portrait, expression_strength, head_strength, interpolation)
        output = next_output_file(filename_prefix, ".mp4", portrait.size)
        frames = _frames_with_preview(renderer, motion)
        write_video(output.path, frames, motion.fps, sound, workflow_metadata(prompt, extra_pnginfo))
        return {"ui": {"images": [output.reference], "animated": (True,)}, "result": (str(output.path),)}


def _equally_long(motion: FaceMotion, audio: dict[str, Any] | None) -> tuple[FaceMotion, Any]:
    """Return motion and sound of equal length; the sound is None when there is no audio."""
    from ..core_models.audio.decode import sound_from_comfy
    from ..core_models.motion.with_sound import match_motion_to_sound

    return (motion, None) if audio is None else match_motion_to_sound(motion, sound_from_comfy(audio))


def _mesh_renderer(
    portrait: Portrait, expression_strength: float, head_strength: float, interpolation: str
) -> MeshRenderer:
    from ..core_models.rendering.mesh import MeshRenderer, MeshRendererParameters

    parameters = MeshRendererParameters(
        interpolation=interpolation, expression_strength=expression_strength, head_strength=head_strength
    )
    return MeshRenderer(portrait, parameters)


def _frames_with_preview(renderer: MeshRenderer, motion: FaceMotion) -> Iterator[np.ndarray]:
    """Yield the frames, showing progress and a live preview; cancelling raises from here."""
    from ..runtime.host import host

    progress = host().progress(motion.frame_count)
    for done, frame in enumerate(renderer.frames(motion), start=1):
        yield frame
        progress.update(done, motion.frame_count, preview=frame)
