"""The emotion a face shows, constant, mixed, or changing over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core_models.types import Emotion, FaceMotion, Portrait, PortraitVideo

CATEGORY = "TalkingPortrait/Emotion"

NO_EMOTION = "none"


class EmotionCondition:
    """A weighted mix of named emotions with a strength, over time."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Says which emotion the face shows while it speaks: one, a mix of two, one after the other (chain "
        "these nodes), or keyframes written as text."
    )
    RETURN_TYPES = ("EMOTION",)
    RETURN_NAMES = ("emotion",)
    OUTPUT_TOOLTIPS = ("For the Keypoint Diffusion Sampler, Emotion Offset, or the next Emotion Condition.",)
    FUNCTION = "condition"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.types import EMOTION_NAMES

        return {
            "required": {
                "emotion": (
                    list(EMOTION_NAMES),
                    {"default": "happy", "tooltip": "The emotion to show."},
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 2.0,
                        "step": 0.05,
                        "tooltip": "1 is a natural display, 0 is neutral, 2 is overdone.",
                    },
                ),
                "second_emotion": (
                    [NO_EMOTION, *EMOTION_NAMES],
                    {"default": NO_EMOTION, "tooltip": "An emotion to mix in, or none."},
                ),
                "mix": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "Share of the second emotion. Without one it does nothing.",
                    },
                ),
                "start_time": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 86400.0,
                        "step": 0.1,
                        "tooltip": "Seconds at which this emotion takes over from the previous one. Without "
                        "a previous emotion it does nothing.",
                    },
                ),
                "transition": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.05,
                        "max": 60.0,
                        "step": 0.05,
                        "tooltip": "Seconds the change from the previous emotion takes.",
                    },
                ),
                "keyframes": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "placeholder": "0: neutral, 1.5: happy 0.8, 4: sad 0.6 + angry 0.3",
                        "tooltip": "Emotions over time as 'seconds: emotion strength', separated by commas "
                        "or lines. When given, the emotions and the strength above are not used.",
                    },
                ),
            },
            "optional": {
                "previous": (
                    "EMOTION",
                    {"tooltip": "The emotion before this one; this one takes over at start_time."},
                ),
            },
        }

    def condition(
        self,
        emotion: str,
        strength: float,
        second_emotion: str,
        mix: float,
        start_time: float,
        transition: float,
        keyframes: str,
        previous: Emotion | None = None,
    ) -> tuple[Emotion]:
        from ..core_models.motion.emotion import emotion_followed_by, emotion_from_keyframes
        from ..core_models.types import Emotion

        if keyframes.strip():
            shown = emotion_from_keyframes(keyframes)
        elif second_emotion in (NO_EMOTION, emotion):
            shown = Emotion.mixed({emotion: 1.0}, strength)
        else:
            shown = Emotion.mixed({emotion: 1.0 - mix, second_emotion: mix}, strength)
        if previous is not None:
            shown = emotion_followed_by(previous, shown, start_time, transition)
        return (shown,)


class EmotionSweep:
    """Several emotions, one after the other."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Gives several emotions as a list: what is connected runs once for each, so that one speech is said in all of "
        "them. Frame Grid puts the clips side by side."
    )
    RETURN_TYPES = ("EMOTION", "STRING")
    RETURN_NAMES = ("emotions", "labels")
    OUTPUT_TOOLTIPS = ("One emotion after the other.", "Their descriptions, for Frame Grid.")
    OUTPUT_IS_LIST = (True, True)
    FUNCTION = "sweep"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "emotions": (
                    "STRING",
                    {
                        "default": "neutral\nhappy\nsad\nangry\nsurprised\ndisgusted",
                        "multiline": True,
                        "tooltip": "One emotion or mix per line, such as 'happy 0.6 + surprised 0.4'.",
                    },
                ),
            }
        }

    def sweep(self, emotions: str) -> tuple[list[Emotion], list[str]]:
        from ..core_models.motion.emotion import emotions_of_lines

        return emotions_of_lines(emotions)


class EmotionFromFace:
    """The emotion that a portrait or a clip shows."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Reads the emotion off a face: of a portrait, or of a clip, whose expression is averaged over time. It comes "
        "as a mix of the named emotions, so that everything with an emotion socket takes it."
    )
    RETURN_TYPES = ("EMOTION", "STRING")
    RETURN_NAMES = ("emotion", "description")
    OUTPUT_TOOLTIPS = (
        "For the sampler, Emotion Offset, or the next Emotion Condition.",
        "What was read, in words.",
    )
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0,
                        "min": 0.0,
                        "max": 3.0,
                        "step": 0.05,
                        "tooltip": "Factor for what is read; the result is at most 2.",
                    },
                ),
            },
            "optional": {
                "portrait": ("PORTRAIT", {"tooltip": "A face that shows the emotion, or a film of one."}),
                "motion": (
                    "FACE_MOTION",
                    {
                        "tooltip": "Motion in blendshapes instead, such as from Motion from Video with calibrate "
                        "switched off, which takes the driver's usual expression away."
                    },
                ),
                "neutral": (
                    "PORTRAIT",
                    {
                        "tooltip": "The same person's relaxed face: the emotion is counted from it, so that brows that "
                        "always frown are no anger."
                    },
                ),
            },
        }

    def read(
        self,
        strength: float,
        portrait: Portrait | PortraitVideo | None = None,
        motion: FaceMotion | None = None,
        neutral: Portrait | PortraitVideo | None = None,
    ) -> tuple[Emotion, str]:
        from ..core_models.motion.emotion_expression import described_emotion, emotion_of_face

        emotion = emotion_of_face(portrait, motion, strength, neutral)
        return emotion, described_emotion(emotion)


class EmotionOffset:
    """Motion with an emotion's expression laid over it."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Lays an emotion's expression over any motion: from a video, a table, or a model that knows of none. It is an "
        "offset, not a performance: lips that meet stay together, jaw, head and gaze stay what they are."
    )
    RETURN_TYPES = ("FACE_MOTION",)
    RETURN_NAMES = ("motion",)
    OUTPUT_TOOLTIPS = ("The motion with the expression.",)
    FUNCTION = "add"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "motion": ("FACE_MOTION", {"tooltip": "Motion in either space."}),
                "emotion": ("EMOTION", {"tooltip": "From Emotion Condition or Emotion from Face."}),
            }
        }

    def add(self, motion: FaceMotion, emotion: Emotion) -> tuple[FaceMotion]:
        from ..core_models.motion.emotion_expression import with_emotion

        return (with_emotion(motion, emotion),)
