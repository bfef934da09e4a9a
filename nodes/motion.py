"""Motion tracks: mixed by region, adjusted, resampled, cut and joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core_models.types import FaceMotion

CATEGORY = "TalkingPortrait/Motion"

FPS_INPUT = {"default": 25.0, "min": 1.0, "max": 240.0, "step": 0.01}

_REGIONS = {
    "lips": "lips: everything the mouth does except opening and shifting the jaw",
    "jaw": "jaw: opening and shifting it",
    "eyes": "eyes: blinks, lids and gaze",
    "brows": "brows",
    "cheeks": "cheeks and nose",
    "pose": "head: rotation, shifting and size",
}


def _region_inputs(default: dict[str, float], largest: float, meaning: str) -> dict[str, Any]:
    return {
        region: (
            "FLOAT",
            {
                "default": default[region],
                "min": 0.0,
                "max": largest,
                "step": 0.05,
                "tooltip": f"{meaning} for the {described}.",
            },
        )
        for region, described in _REGIONS.items()
    }


_THIRD_GATES = {"third": "eyes 1 + brows 1", "fourth": "pose 1"}


class MixMotion:
    """Two or more motions, each steering its own parts of the face."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Mixes motions region by region: a gate of 0 keeps the base, 1 takes the other. So lips and jaw can come "
        "from speech while head, eyes and brows come from a video. Gates may change over time. Take lips and jaw "
        "from the same motion, or the lips will not meet where they should."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The mixed motion, at the rate and length of the base.",)
    FUNCTION = "mix"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        default = {"lips": 0.0, "jaw": 0.0, "eyes": 1.0, "brows": 1.0, "cheeks": 0.0, "pose": 1.0}
        return {
            "required": {
                "base": ("FACE_MOTION", {"tooltip": "Gives rate and length, and every region left at 0."}),
                "other": ("FACE_MOTION", {"tooltip": "Mixed in; brought to the base's rate and length."}),
                **_region_inputs(default, 1.0, "Share of the other motion"),
            },
            "optional": {
                "gates_over_time": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "placeholder": "0: lips 0 + jaw 0, 2: lips 1 + jaw 1",
                        "tooltip": "Gates of the other motion at times, as 'seconds: region gate'; between them they "
                        "pass smoothly. A region named here does not use its slider.",
                    },
                ),
                "third": ("FACE_MOTION", {"tooltip": "Mixed over the result, if connected."}),
                "third_gates": (
                    "STRING",
                    {
                        "default": _THIRD_GATES["third"],
                        "tooltip": "Gates of the third motion, such as 'eyes 1 + brows 0.5', or over time.",
                    },
                ),
                "fourth": ("FACE_MOTION", {"tooltip": "Mixed over that result, if connected."}),
                "fourth_gates": (
                    "STRING",
                    {
                        "default": _THIRD_GATES["fourth"],
                        "tooltip": "Gates of the fourth motion, such as 'pose 1', or over time.",
                    },
                ),
            },
        }

    def mix(
        self,
        base: FaceMotion,
        other: FaceMotion,
        gates_over_time: str = "",
        third: FaceMotion | None = None,
        third_gates: str = _THIRD_GATES["third"],
        fourth: FaceMotion | None = None,
        fourth_gates: str = _THIRD_GATES["fourth"],
        **gates: float,
    ) -> tuple[FaceMotion]:
        from ..core_models.motion.region_gates import gates_from_text, mix_motions

        layers = [(other, gates, gates_over_time), (third, {}, third_gates), (fourth, {}, fourth_gates)]
        layers = [layer for layer in layers if layer[0] is not None]
        others, constant, texts = zip(*layers, strict=True)
        return (mix_motions(base, others, constant, [gates_from_text(text) for text in texts]),)


class AdjustMotion:
    """Motion made stronger, weaker or smoother."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Scales motion region by region, and smooths it."
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The adjusted motion.",)
    FUNCTION = "adjust"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "motion": ("FACE_MOTION", {"tooltip": "The motion to adjust."}),
                **_region_inputs(dict.fromkeys(_REGIONS, 1.0), 3.0, "Factor"),
                "smoothing": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 2.0,
                        "step": 0.01,
                        "tooltip": "Width of the smoothing in seconds; 0 leaves the motion as it is. Blinks "
                        "are not smoothed.",
                    },
                ),
            }
        }

    def adjust(self, motion: FaceMotion, smoothing: float, **gains: float) -> tuple[FaceMotion]:
        from ..core_models.motion.regions import scale_motion
        from ..core_models.motion.track import smooth_motion

        motion = scale_motion(motion, gains)
        return (smooth_motion(motion, sigma=smoothing) if smoothing else motion,)


class ResampleMotion:
    """Motion at another frame rate."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Brings motion to another frame rate; its duration stays."
    RETURN_TYPES = ("FACE_MOTION", "FLOAT")
    RETURN_NAMES = ("motion", "fps")
    OUTPUT_TOOLTIPS = ("The motion at the new rate.", "The new rate, passed on.")
    FUNCTION = "resample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "motion": ("FACE_MOTION", {"tooltip": "The motion to resample."}),
                "fps": ("FLOAT", {**FPS_INPUT, "tooltip": "Frames per second wanted."}),
            }
        }

    def resample(self, motion: FaceMotion, fps: float) -> tuple[FaceMotion, float]:
        from ..core_models.motion.track import resample_motion

        return resample_motion(motion, fps), fps


class SliceMotion:
    """A part of a motion."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Takes a part of a motion."
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The part.",)
    FUNCTION = "cut"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        seconds = {"default": 0.0, "min": 0.0, "max": 86400.0, "step": 0.04}
        return {
            "required": {
                "motion": ("FACE_MOTION", {"tooltip": "The motion to take a part of."}),
                "start": ("FLOAT", {**seconds, "tooltip": "Seconds at which the part begins."}),
                "stop": ("FLOAT", {**seconds, "tooltip": "Seconds at which it ends. 0 means the end."}),
            }
        }

    def cut(self, motion: FaceMotion, start: float, stop: float) -> tuple[FaceMotion]:
        from ..core_models.motion.track import slice_motion

        return (slice_motion(motion, start, stop or motion.duration),)


class JoinMotion:
    """Motions one after the other."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Puts motions one after the other, all at the rate of the first."
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The joined motion.",)
    FUNCTION = "join"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "first": ("FACE_MOTION", {"tooltip": "Comes first and gives the rate."}),
                "second": ("FACE_MOTION", {"tooltip": "Comes second."}),
                "cross_fade": (
                    "FLOAT",
                    {
                        "default": 0.2,
                        "min": 0.0,
                        "max": 10.0,
                        "step": 0.04,
                        "tooltip": "Seconds in which one motion blends into the next; the whole gets shorter "
                        "by that much per seam.",
                    },
                ),
            },
            "optional": {
                "third": ("FACE_MOTION", {"tooltip": "Comes third, if connected."}),
                "fourth": ("FACE_MOTION", {"tooltip": "Comes fourth, if connected."}),
            },
        }

    def join(
        self,
        first: FaceMotion,
        second: FaceMotion,
        cross_fade: float,
        third: FaceMotion | None = None,
        fourth: FaceMotion | None = None,
    ) -> tuple[FaceMotion]:
        from ..core_models.motion.track import join_motion

        motions = [motion for motion in (first, second, third, fourth) if motion is not None]
        return (join_motion(motions, cross_fade),)
