"""Motion tracks: from videos and tables, mixed by region, adjusted, resampled, cut and joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .face import FACE_INDEX_INPUT, chosen_face, face_landmarker

if TYPE_CHECKING:
    from ..core_models.types import FaceMotion, ModelHandle

CATEGORY = "TalkingPortrait/Motion"

_FPS_INPUT = {"default": 25.0, "min": 1.0, "max": 240.0, "step": 0.01}

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


class MotionFromVideo:
    """The motion of a face in a video."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Follows the face in a video and reads its expression and head pose. What is read is the movement "
        "away from the driver's resting face, so that it fits any portrait."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The motion at the video's rate.",)
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.motion.from_video import MISSING_FACE_POLICIES

        return {
            "required": {
                "frames": ("IMAGE", {"tooltip": "The frames of the driving video."}),
                "fps": (
                    "FLOAT",
                    {**_FPS_INPUT, "tooltip": "Frames per second of the video; connect the loader's fps."},
                ),
                "face_detector": ("FACE_MODEL", {"tooltip": "From Load Face Detector."}),
                "on_missing_face": (
                    list(MISSING_FACE_POLICIES),
                    {
                        "default": "interpolate",
                        "tooltip": "When a frame has no face: error stops; previous repeats the last one; "
                        "interpolate goes over to the next; skip leaves the frame out, which makes the "
                        "motion shorter.",
                    },
                ),
                "face_index": FACE_INDEX_INPUT,
                "smoothing": (
                    "INT",
                    {
                        "default": 1,
                        "min": 0,
                        "max": 20,
                        "tooltip": "Passes of smoothing over the readings; blinks are never smoothed.",
                    },
                ),
                "calibrate": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Take the driver's resting face as the rest of the motion. Off: keep the "
                        "readings as they are.",
                    },
                ),
            }
        }

    def read(
        self,
        frames: Any,
        fps: float,
        face_detector: ModelHandle,
        on_missing_face: str,
        face_index: int,
        smoothing: int,
        calibrate: bool,
    ) -> tuple[FaceMotion]:
        from ..core_models.motion.from_video import motion_from_frames
        from ..runtime.host import host
        from .images import checked_image, frames_from_image

        total = len(checked_image(frames))
        with face_landmarker(face_detector) as landmarker:
            motion = motion_from_frames(
                frames_from_image(frames),
                fps,
                landmarker,
                frame_total=total,
                on_missing_face=on_missing_face,
                face_index=chosen_face(face_index),
                smoothing=smoothing,
                calibrate=calibrate,
                progress=host().progress(total).update,
            )
        return (motion,)


class MotionFromCSV:
    """Motion from a table of ARKit coefficients."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Reads a table of the 52 ARKit coefficients and head angles, as iPhone capture apps (Live Link Face) "
        "export it."
    )
    RETURN_TYPES = ("FACE_MOTION", "FLOAT")
    RETURN_NAMES = ("motion", "fps")
    OUTPUT_TOOLTIPS = ("The motion.", "Its frames per second.")
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "file": (
                    "STRING",
                    {"default": "motion.csv", "tooltip": "The file's name in the input folder, or its path."},
                ),
                "fps": (
                    "FLOAT",
                    {
                        **_FPS_INPUT,
                        "default": 0.0,
                        "min": 0.0,
                        "tooltip": "Frames per second of the table. 0 reads it from the table's time codes.",
                    },
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, file: str | None, **_: Any) -> str:
        from ..runtime.input_files import file_fingerprint, input_path

        return "" if file is None else file_fingerprint(input_path(file))

    def read(self, file: str, fps: float) -> tuple[FaceMotion, float]:
        from ..core_models.motion.arkit_csv import read_arkit_csv
        from ..runtime.input_files import input_path

        motion = read_arkit_csv(input_path(file), fps or None)
        return motion, float(motion.fps)


class SaveMotionCSV:
    """Motion as a table of ARKit coefficients."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Saves motion as a table that animation programs read (Live Link Face layout)."
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Path of the file.",)
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "motion": ("FACE_MOTION", {"tooltip": "The motion to save."}),
                "filename_prefix": (
                    "STRING",
                    {
                        "default": "motion/TalkingPortrait",
                        "tooltip": "Where in the output folder; a number and .csv are appended.",
                    },
                ),
            }
        }

    def save(self, motion: FaceMotion, filename_prefix: str) -> dict[str, Any]:
        from ..core_models.motion.arkit_csv import write_arkit_csv
        from ..runtime.output_files import next_output_file

        output = next_output_file(filename_prefix, ".csv")
        write_arkit_csv(motion, output.path)
        return {"ui": {"text": (str(output.path),)}, "result": (str(output.path),)}


class MixMotion:
    """Two motions, each steering its own parts of the face."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Mixes two motions region by region: 0 keeps the base, 1 takes the other. So lips and jaw can come "
        "from speech while head, eyes and brows come from a video. Take lips and jaw from the same motion, "
        "or the lips will not meet where they should."
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
            }
        }

    def mix(self, base: FaceMotion, other: FaceMotion, **gates: float) -> tuple[FaceMotion]:
        from ..core_models.motion.regions import mix_motion

        return (mix_motion(base, other, gates),)


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
                "fps": ("FLOAT", {**_FPS_INPUT, "tooltip": "Frames per second wanted."}),
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
