"""How much a face and a body are to move: chosen, in several settings, or read from a driving video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .face import FACE_INDEX_INPUT, chosen_face
from .fantasytalking_widgets import CATEGORY
from .motion import FPS_INPUT
from .motion_sources import faces_of_frames

if TYPE_CHECKING:
    from ..core_models.face.landmarker import DetectedFace
    from ..core_models.motion.body_joints import BodyJoints
    from ..core_models.types import ModelHandle
    from ..core_models.wan_types import FantasyTalkingModels, MotionIntensity

FROM_NECK, NEUTRAL = "from the neck", "neutral"
BODY_CHOICES = (FROM_NECK, NEUTRAL)
"""What a body is judged by of which only the head is known: how its neck moves, or not at all."""


def _coefficient(what: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {
        "default": 0.5,
        "min": 0.0,
        "max": 1.0,
        "step": 0.05,
        "tooltip": f"How much the {what} moves: 0.1 subtly, 0.5 naturally, 1 intensely.",
    }


def _over_time(what: str) -> tuple[str, dict[str, Any]]:
    return "STRING", {
        "default": "",
        "placeholder": "0: 0.2, 2.5: 0.8",
        "tooltip": "The same over time, as 'seconds: intensity' with commas between; in between it goes evenly. A "
        "window of the clip takes the mean over its own frames, a clip of one window that of all. When given, "
        f"{what} is not used.",
    }


def _stand_in() -> tuple[list[str], dict[str, Any]]:
    from ..core_models.wan_types import STAND_INS

    return list(STAND_INS), {
        "default": STAND_INS[0],
        "tooltip": "In a model without a trained intensity network, as the release is: none refuses; audio_guidance "
        "guides more or less by sound, for the face; prompt adds words, for the body. Neither was trained for it.",
    }


OPTIONAL_MODEL_INPUT = (
    "FANTASYTALKING",
    {"tooltip": "From Load FantasyTalking: of which model to say what the intensity does in it."},
)
_USED_TOOLTIP = "What the connected model does with it: trained, standing in, or nothing."
_MEASURED_TOOLTIP = "What the connected model does with it, and what the body was measured by."


class ChooseMotionIntensity:
    """Intensities that a user chooses."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Says how much face and body are to move, constant or over time. Models with a trained intensity network take "
        "both; for the release, which has none, a stand-in may be chosen that was not trained for it. The text says "
        "which of these acts."
    )
    RETURN_TYPES = ("MOTION_INTENSITY", "STRING")
    RETURN_NAMES = ("motion_intensity", "used")
    OUTPUT_TOOLTIPS = ("For FantasyTalking Sampler.", _USED_TOOLTIP)
    FUNCTION = "choose"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "face": _coefficient("face"),
                "body": _coefficient("body"),
                "stand_in": _stand_in(),
            },
            "optional": {
                "face_over_time": _over_time("face"),
                "body_over_time": _over_time("body"),
                "fantasytalking": OPTIONAL_MODEL_INPUT,
            },
        }

    def choose(
        self,
        face: float,
        body: float,
        stand_in: str,
        face_over_time: str = "",
        body_over_time: str = "",
        fantasytalking: FantasyTalkingModels | None = None,
    ) -> tuple[MotionIntensity, str]:
        from ..core_models.wan_types import MotionIntensity
        from ..runtime.fantasytalking_clips import intensity_use

        intensity = MotionIntensity(
            _gate("face", face, face_over_time), _gate("body", body, body_over_time), stand_in
        )
        return intensity, intensity_use(fantasytalking, intensity)


def _gate(name: str, constant: float, keyframes: str) -> Any:
    from ..core_models.video_diffusion.gate_keyframes import chosen_gate

    try:
        return chosen_gate(constant, keyframes)
    except ValueError as error:
        raise ValueError(f"the {name}'s intensity: {error}") from error


class MotionIntensitySweep:
    """Several intensities, one after the other."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Gives several intensities as a list: what is connected runs once for each, so that one clip is made with "
        "each of them. Frame Grid puts the clips side by side."
    )
    RETURN_TYPES = ("MOTION_INTENSITY", "STRING")
    RETURN_NAMES = ("motion_intensity", "labels")
    OUTPUT_TOOLTIPS = (
        "One intensity after the other, for FantasyTalking Sampler.",
        "Their descriptions, for Frame Grid.",
    )
    OUTPUT_IS_LIST = (True, True)
    FUNCTION = "sweep"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "intensities": (
                    "STRING",
                    {
                        "default": "0.1\n0.5\n1",
                        "multiline": True,
                        "tooltip": "One clip per line: one number for face and body, or one for each, 0 to 1.",
                    },
                ),
                "stand_in": _stand_in(),
            }
        }

    def sweep(self, intensities: str, stand_in: str) -> tuple[list[MotionIntensity], list[str]]:
        from ..core_models.video_diffusion.gate_keyframes import chosen_gate, intensities_of_lines
        from ..core_models.wan_types import MotionIntensity

        pairs, labels = intensities_of_lines(intensities)
        return [
            MotionIntensity(chosen_gate(face), chosen_gate(body), stand_in) for face, body in pairs
        ], labels


class MotionIntensityFromVideo:
    """Intensities as a driving video has them."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Measures how much face and body move in a video, as shares of what was measured on training clips: the "
        "variance of the face's landmarks, and of neck and shoulders where a pose node found them, else of the neck's "
        "place. So that a clip moves as much as another."
    )
    RETURN_TYPES = ("MOTION_INTENSITY", "FLOAT", "FLOAT", "STRING")
    RETURN_NAMES = ("motion_intensity", "face", "body", "used")
    OUTPUT_TOOLTIPS = (
        "For FantasyTalking Sampler.",
        "How much the face moves, 0 to 1.",
        "How much the body moves, 0 to 1.",
        _MEASURED_TOOLTIP,
    )
    FUNCTION = "measure"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "frames": ("IMAGE", {"tooltip": "The frames of the driving video, two or more."}),
                "fps": (
                    "FLOAT",
                    {**FPS_INPUT, "tooltip": "Frames per second of the video; connect the loader's fps."},
                ),
                "body_motion": (
                    list(BODY_CHOICES),
                    {
                        "default": FROM_NECK,
                        "tooltip": "from the neck: how far it moves in the picture stands for the body, unless "
                        "body_joints are connected. neutral: 0.5, whatever is seen.",
                    },
                ),
                "stand_in": _stand_in(),
                "face_index": FACE_INDEX_INPUT,
            },
            "optional": {
                "face_detector": (
                    "FACE_MODEL",
                    {"tooltip": "From Load Face Detector: finds and follows the face."},
                ),
                "face_landmarks": (
                    "FACE_LANDMARKS",
                    {
                        "tooltip": "Faces found by ComfyUI's own MediaPipe node on the same frames, instead of that."
                    },
                ),
                "body_joints": (
                    "POSE_KEYPOINT",
                    {
                        "tooltip": "From a DWPose or OpenPose node on the same frames: the body is then measured by "
                        "neck and shoulders of the person whose face it is, not by the neck alone. Arms do not count."
                    },
                ),
                "fantasytalking": OPTIONAL_MODEL_INPUT,
            },
        }

    def measure(
        self,
        frames: Any,
        fps: float,
        body_motion: str,
        stand_in: str,
        face_index: int,
        face_detector: ModelHandle | None = None,
        face_landmarks: Any = None,
        body_joints: Any = None,
        fantasytalking: FantasyTalkingModels | None = None,
    ) -> tuple[MotionIntensity, float, float, str]:
        from ..core_models.motion.body_joints import joints_of_person
        from ..core_models.motion.motion_intensity import landmarks_of_faces, motion_coefficients
        from ..core_models.motion.pose_keypoints import people_of_frames
        from ..core_models.wan_types import MotionIntensity
        from ..runtime.fantasytalking_clips import intensity_use
        from .images import checked_image

        if body_motion not in BODY_CHOICES:
            raise ValueError(f"body_motion is {body_motion!r}; choose one of {', '.join(BODY_CHOICES)}")
        total = len(checked_image(frames))
        neck, people = body_motion == FROM_NECK, None
        if neck and body_joints is not None:
            people = people_of_frames(body_joints, total, (frames.shape[2], frames.shape[1]))
        with faces_of_frames(frames, face_detector, face_landmarks, chosen_face(face_index)) as faces:
            landmarks = landmarks_of_faces(_with_progress(faces, total))
        joints = None if people is None else joints_of_person(people, landmarks)
        seen = None if joints is None else joints.seen_positions
        face, body = motion_coefficients(landmarks, fps, seen, from_neck=neck)
        intensity = MotionIntensity(face, body, stand_in)
        used = f"{intensity_use(fantasytalking, intensity)} {_measured_by(joints, neck)}"
        return intensity, face, body, used


def _measured_by(joints: BodyJoints | None, from_neck: bool) -> str:
    """Return what a body was measured by, one sentence."""
    from ..core_models.motion.motion_intensity import TRUNK_JOINTS

    if not from_neck:
        return "The body is neutral, as chosen; nothing was measured."
    if joints is None:
        return "The body was measured by the neck's place."
    shown, total = joints.frames_that_show(TRUNK_JOINTS), len(joints.confidence)
    return (
        f"The body was measured by the joints of neck and shoulders, all seen in {shown} of {total} frames."
    )


def _with_progress(faces: Iterable[DetectedFace | None], total: int) -> Iterator[DetectedFace | None]:
    """Give the face in each frame and show how many are done; cancelling ends it."""
    from ..runtime.host import host

    progress = host().progress(total)
    for done, face in enumerate(faces, 1):
        yield face
        progress.update(done, total)
