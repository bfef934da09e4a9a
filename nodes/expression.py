"""The expression editor: sliders for a still face, or added onto a motion, over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .liveportrait import OPTIONAL_RENDERER_INPUT
from .motion import CATEGORY, FPS_INPUT

if TYPE_CHECKING:
    from ..core_models.types import FaceMotion, RendererModels

_PLACE_MEANINGS = {
    "shift_x": "Head to the picture's right, in distances of the outer eye corners.",
    "shift_y": "Head up, in distances of the outer eye corners.",
    "pitch": "Degrees the head looks down; below 0 up.",
    "yaw": "Degrees the head turns to the picture's right; below 0 to its left.",
    "roll": "Degrees the head tilts anticlockwise; below 0 clockwise.",
    "zoom": "Size of the head; 1 leaves it.",
}


def _slider(name: str) -> tuple[str, dict[str, Any]]:
    from ..core_models.motion.expression_sliders import EXPRESSION_SLIDERS, SLIDER_RANGES

    slider = EXPRESSION_SLIDERS.get(name)
    meaning = _PLACE_MEANINGS[name] if slider is None else f"{slider.meaning[0].upper()}{slider.meaning[1:]}."
    lowest, largest = SLIDER_RANGES[name]
    degrees = name in ("pitch", "yaw", "roll")
    return (
        "FLOAT",
        {
            "default": 1.0 if name == "zoom" else 0.0,
            "min": float(lowest),
            "max": float(largest),
            "step": 0.5 if degrees else 0.01,
            "tooltip": meaning,
        },
    )


class ExpressionEditor:
    """Sliders for a face: a still one, or added onto a motion."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Edits the face with sliders: smile, blink, wink, brows, gaze, the mouth's shapes, and where the head is. On "
        "its own it makes a motion that holds the edit; with a motion connected it is added to it. Key frames change "
        "the sliders over time. 1 is a strong but natural display."
    )
    RETURN_TYPES = ("FACE_MOTION", "FLOAT")
    RETURN_NAMES = ("motion", "fps")
    OUTPUT_TOOLTIPS = ("The edited motion.", "Its frames per second.")
    FUNCTION = "edit"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.motion.expression_sliders import SLIDER_NAMES

        return {
            "required": {
                **{name: _slider(name) for name in SLIDER_NAMES},
                "keyframes": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "placeholder": "0: neutral, 1: smile=0.8 yaw=10, 3: blink=1",
                        "tooltip": "The sliders over time, as 'seconds: slider=value'; between key frames they pass "
                        "smoothly. When given, the sliders above are not used.",
                    },
                ),
                "duration": (
                    "FLOAT",
                    {
                        "default": 0.04,
                        "min": 0.01,
                        "max": 3600.0,
                        "step": 0.01,
                        "tooltip": "Seconds the edit is held; 0.04 at 25 frames per second is one picture. Without "
                        "effect when a motion is connected.",
                    },
                ),
                "fps": (
                    "FLOAT",
                    {
                        **FPS_INPUT,
                        "tooltip": "Frames per second. Without effect when a motion is connected.",
                    },
                ),
            },
            "optional": {
                "motion": ("FACE_MOTION", {"tooltip": "A motion to add the edit to, in either space."}),
                "renderer": OPTIONAL_RENDERER_INPUT,
            },
        }

    def edit(
        self,
        keyframes: str,
        duration: float,
        fps: float,
        motion: FaceMotion | None = None,
        renderer: RendererModels | None = None,
        **sliders: float,
    ) -> tuple[FaceMotion, float]:
        from ..core_models.audio.frame_clock import frame_count
        from ..core_models.motion.expression_editor import ExpressionEdit, edit_motion, still_motion
        from ..core_models.motion.expression_keyframes import edits_from_keyframes
        from ..core_models.types import RendererModels

        edits = edits_from_keyframes(keyframes) if keyframes.strip() else ExpressionEdit(**sliders)
        if motion is not None:
            if renderer is not None:
                motion.require_space(renderer.space)
            return edit_motion(motion, edits), float(motion.fps)
        space = (renderer or RendererModels()).space
        return still_motion(edits, frame_count(duration, fps), fps, space), float(fps)
