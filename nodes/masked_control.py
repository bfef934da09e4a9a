"""What steers which part of a face, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .actalker import CATEGORY

if TYPE_CHECKING:
    from ..core_models.types import AudioEmbedding
    from ..core_models.video_types import MaskedControl, MotionEmbedding


def _mask(tooltip: str) -> tuple[str, dict[str, Any]]:
    return "MASK", {"tooltip": tooltip}


def _gate(tooltip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": tooltip}


def _gate_text(tooltip: str) -> tuple[str, dict[str, Any]]:
    return "STRING", {"default": "", "placeholder": "0: 1, 2.5: 0", "tooltip": tooltip}


def _guidance(tooltip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 0.0, "min": 0.0, "max": 30.0, "step": 0.1, "tooltip": tooltip}


class MaskedSSMController:
    """Sound and motion, each with its region, gate and guidance."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Says what steers which part of the face: sound within its mask, motion within its own, each through a gate "
        "from 0 (shut) to 1 (open), which may change over time. A signal whose partner is shut has the whole face. "
        "Connect sound, motion, or both."
    )
    RETURN_TYPES = ("SSM_CONTROL",)
    RETURN_NAMES = ("control",)
    OUTPUT_TOOLTIPS = ("For ACTalker Sampler.",)
    FUNCTION = "control"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.video_types import REGION_MODES

        return {
            "required": {
                "face_mask": _mask(
                    "Where a signal works alone, from Face-Mask Builder at the portrait's size. Of several masks, what "
                    "any of them covers."
                ),
                "audio_mask": _mask(
                    "Where sound works beside motion: the mouth. Of several masks, what any of them covers."
                ),
                "motion_mask": _mask(
                    "Where motion works beside sound: the face without the mouth. Of several masks, what any of them "
                    "covers."
                ),
                "audio_gate": _gate("How far sound is let through: 1 fully, 0 not at all."),
                "motion_gate": _gate("How far motion is let through: 1 fully, 0 not at all."),
                "audio_guidance": _guidance(
                    "How far the result is pushed towards the sound; 1 is not at all. 0 is the model's own; "
                    "the release's is 7.5."
                ),
                "motion_guidance": _guidance(
                    "How far the result is pushed towards the motion; 1 is not at all. 0 is the model's own; "
                    "the release's is 3."
                ),
                "regions": (
                    list(REGION_MODES),
                    {
                        "default": REGION_MODES[0],
                        "tooltip": "When both work: each in its own region, as the paper has it, or both in the whole "
                        "picture, as the released script does it.",
                    },
                ),
            },
            "optional": {
                "audio_embeds": (
                    "AUDIO_EMBEDS",
                    {"tooltip": "The sound, from Audio Embedding with the model connected."},
                ),
                "motion_embeds": ("MOTION_EMBEDS", {"tooltip": "The motion, from Motion Embedding."}),
                "audio_gate_over_time": _gate_text(
                    "The audio gate over time, as 'seconds: gate' with commas between; in between it goes evenly. When "
                    "given, audio_gate is not used."
                ),
                "motion_gate_over_time": _gate_text(
                    "The motion gate over time, likewise. When given, motion_gate is not used."
                ),
            },
        }

    def control(
        self,
        face_mask: Any,
        audio_mask: Any,
        motion_mask: Any,
        audio_gate: float,
        motion_gate: float,
        audio_guidance: float,
        motion_guidance: float,
        regions: str,
        audio_embeds: AudioEmbedding | None = None,
        motion_embeds: MotionEmbedding | None = None,
        audio_gate_over_time: str = "",
        motion_gate_over_time: str = "",
    ) -> tuple[MaskedControl]:
        from ..core_models.video_diffusion.gate_keyframes import chosen_gate
        from ..core_models.video_types import MaskedControl
        from .images import union_from_mask

        control = MaskedControl(
            face=union_from_mask(face_mask),
            mouth=union_from_mask(audio_mask),
            motion_mask=union_from_mask(motion_mask),
            audio=audio_embeds,
            motion=motion_embeds,
            audio_gate=chosen_gate(audio_gate, audio_gate_over_time),
            motion_gate=chosen_gate(motion_gate, motion_gate_over_time),
            audio_guidance=audio_guidance or None,
            motion_guidance=motion_guidance or None,
            regions=regions,
        )
        return (control,)


class GateSweep:
    """Several settings of the two gates, one after the other."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Gives several settings of the two gates as lists: what is connected runs once for each, so that one clip is "
        "made in all of them. Frame Grid puts the clips side by side."
    )
    RETURN_TYPES = ("FLOAT", "FLOAT", "STRING")
    RETURN_NAMES = ("audio_gates", "motion_gates", "labels")
    OUTPUT_TOOLTIPS = (
        "One audio gate after the other, for Masked SSM Controller.",
        "One motion gate after the other, likewise.",
        "Their descriptions, for Frame Grid.",
    )
    OUTPUT_IS_LIST = (True, True, True)
    FUNCTION = "sweep"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "gates": (
                    "STRING",
                    {
                        "default": "1 0\n0 1\n1 1\n0.5 1",
                        "multiline": True,
                        "tooltip": "One setting per line: the audio gate and the motion gate, each 0 to 1.",
                    },
                ),
            }
        }

    def sweep(self, gates: str) -> tuple[list[float], list[float], list[str]]:
        from ..core_models.video_diffusion.gate_keyframes import gates_of_lines

        return gates_of_lines(gates)
