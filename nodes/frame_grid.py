"""Clips side by side in one video."""

from __future__ import annotations

from typing import Any

CATEGORY = "TalkingPortrait/Rendering"


class FrameGrid:
    """Several clips as one, in rows and columns."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Puts the clips of a list side by side: the variations of a sampler, the emotions of an Emotion Sweep, or "
        "whatever else runs once for each item. All clips are in memory: make them small."
    )
    RETURN_TYPES = ("IMAGE", "FLOAT", "AUDIO")
    RETURN_NAMES = ("frames", "fps", "audio")
    OUTPUT_TOOLTIPS = (
        "The grid, as long as the longest clip.",
        "Frames per second, of the first clip.",
        "The sound of the first clip; nothing when none is connected.",
    )
    INPUT_IS_LIST = True
    FUNCTION = "arrange"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "frames": ("IMAGE", {"tooltip": "The clips, all of one size."}),
                "fps": (
                    "FLOAT",
                    {
                        "default": 25.0,
                        "min": 1.0,
                        "max": 240.0,
                        "step": 0.01,
                        "tooltip": "Frames per second; connect the renderer's fps.",
                    },
                ),
                "columns": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 16,
                        "tooltip": "Clips in a row; 0 makes the grid about square.",
                    },
                ),
                "gap": ("INT", {"default": 4, "min": 0, "max": 256, "tooltip": "Pixels between the clips."}),
            },
            "optional": {
                "audio": ("AUDIO", {"tooltip": "The sound; of several the first counts."}),
                "labels": (
                    "STRING",
                    {"forceInput": True, "tooltip": "What is written into each clip, from Emotion Sweep."},
                ),
            },
        }

    def arrange(
        self,
        frames: list[Any],
        fps: list[float],
        columns: list[int],
        gap: list[int],
        audio: list[dict[str, Any]] | None = None,
        labels: list[str] | None = None,
    ) -> tuple[Any, float, dict[str, Any] | None]:
        from ..core_models.frame_grid import grid_of_clips

        grid = grid_of_clips(frames, columns[0], gap[0], labels or ())
        return grid, fps[0], audio[0] if audio else None
