"""Rendering: motion onto a portrait, as frames for the graph or straight into a video file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .liveportrait import OPTIONAL_RENDERER_INPUT

if TYPE_CHECKING:
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
        from ..core_models.audio.decode import sound_from_comfy, sound_to_comfy
        from ..runtime.rendering import drawn_motion
        from .images import image_from_frames

        sound = None if audio is None else sound_from_comfy(audio)
        with drawn_motion(portrait, motion, sound, renderer, paste_back, **settings) as drawn:
            image = image_from_frames(drawn.frames, drawn.frame_count)
        return image, drawn.fps, None if drawn.sound is None else sound_to_comfy(drawn.sound)


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

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix: str | None = "") -> bool | str:
        from ..runtime.output_files import prefix_validity

        return prefix_validity(filename_prefix)

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
        from ..core_models.audio.decode import sound_from_comfy
        from ..core_models.video_file import write_video
        from ..runtime.output_files import next_output_file, workflow_metadata
        from ..runtime.rendering import drawn_motion

        sound = None if audio is None else sound_from_comfy(audio)
        with drawn_motion(portrait, motion, sound, renderer, paste_back, **settings) as drawn:
            output = next_output_file(filename_prefix, ".mp4", drawn.size)
            metadata = workflow_metadata(prompt, extra_pnginfo)
            write_video(output.path, drawn.frames, drawn.fps, drawn.sound, metadata)
        return {"ui": {"images": [output.reference], "animated": (True,)}, "result": (str(output.path),)}
