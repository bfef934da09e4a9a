"""Who a portrait shows and how a face moves, as a video diffusion model takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .actalker import ACTALKER_INPUT, CATEGORY
from .face import FACE_INDEX_INPUT, chosen_face
from .motion import FPS_INPUT

if TYPE_CHECKING:
    from ..core_models.types import FaceMotion, ModelHandle, Portrait, PortraitVideo
    from ..core_models.video_types import ACTalkerModels, Identity, MotionEmbedding
    from ..core_models.wan_types import FantasyTalkingModels


class IdentityEmbedding:
    """Who a portrait shows, to a model."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Reads who a portrait shows, as the connected model knows people: the published ACTalker by ArcFace, models "
        "trained here by an encoder of their own. The published FantasyTalking has no identity branch."
    )
    RETURN_TYPES = ("IDENTITY", "IMAGE")
    RETURN_NAMES = ("identity", "crop")
    OUTPUT_TOOLTIPS = (
        "For ACTalker Sampler or FantasyTalking Sampler with the same model.",
        "What the encoder saw of the portrait.",
    )
    FUNCTION = "embed"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"portrait": ("PORTRAIT", {"tooltip": "Who it is: a picture, from Portrait."})},
            "optional": {
                "actalker": (
                    "ACTALKER",
                    {"tooltip": "From Load ACTalker: the model that is to know the person."},
                ),
                "fantasytalking": (
                    "FANTASYTALKING",
                    {"tooltip": "From Load FantasyTalking: the model that is to know the person instead."},
                ),
            },
        }

    def embed(
        self,
        portrait: Portrait | PortraitVideo,
        actalker: ACTalkerModels | None = None,
        fantasytalking: FantasyTalkingModels | None = None,
    ) -> tuple[Identity, Any]:
        from ..runtime import actalker_clips, fantasytalking_clips
        from .images import image_from_frames

        if (actalker is None) == (fantasytalking is None):
            raise ValueError(
                "an identity belongs to one model: connect either actalker or fantasytalking to Identity Embedding"
            )
        if actalker is not None:
            identity = actalker_clips.identity_of(actalker, portrait)
        else:
            identity = fantasytalking_clips.identity_of(fantasytalking, portrait)
        return identity, image_from_frames([identity.crop])


class MotionEmbedding:
    """How a face moves, to a model."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Prepares the motion signal as the model takes it: models trained here take a motion in blendshapes, from any "
        "node that makes one; the published ACTalker reads expression and head pose from the frames of a driving "
        "video, or from one picture."
    )
    RETURN_TYPES = ("MOTION_EMBEDS",)
    RETURN_NAMES = ("motion_embeds",)
    OUTPUT_TOOLTIPS = ("The motion at its own rate, for Masked SSM Controller.",)
    FUNCTION = "embed"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.motion.missing_faces import MISSING_FACE_POLICIES

        return {
            "required": {"actalker": ACTALKER_INPUT},
            "optional": {
                "motion": (
                    "FACE_MOTION",
                    {"tooltip": "Models trained here: a motion in blendshapes, such as Motion from Video's."},
                ),
                "frames": (
                    "IMAGE",
                    {"tooltip": "The published ACTalker: the frames of the driving video, or one picture."},
                ),
                "face_detector": (
                    "FACE_MODEL",
                    {"tooltip": "With frames: from Load Face Detector, finds and follows the face."},
                ),
                "fps": (
                    "FLOAT",
                    {**FPS_INPUT, "tooltip": "Frames per second of the video; connect the loader's fps."},
                ),
                "on_missing_face": (
                    list(MISSING_FACE_POLICIES),
                    {
                        "default": "interpolate",
                        "tooltip": "When a frame has no face: error stops; previous repeats the last one; interpolate "
                        "goes over to the next; skip leaves the frame out, which makes the motion shorter.",
                    },
                ),
                "face_index": FACE_INDEX_INPUT,
                "face_landmarks": (
                    "FACE_LANDMARKS",
                    {
                        "tooltip": "Faces found by ComfyUI's own MediaPipe node on the same frames, instead of that."
                    },
                ),
            },
        }

    def embed(
        self,
        actalker: ACTalkerModels,
        motion: FaceMotion | None = None,
        frames: Any = None,
        face_detector: ModelHandle | None = None,
        fps: float = 25.0,
        on_missing_face: str = "interpolate",
        face_index: int = -1,
        face_landmarks: Any = None,
    ) -> tuple[MotionEmbedding]:
        from ..runtime.actalker_clips import driving_embedding_of, motion_embedding_of
        from ..runtime.host import host
        from .images import ImageFrames
        from .motion_sources import faces_of_frames

        if (motion is None) == (frames is None):
            raise ValueError(
                "connect either motion (for models trained here) or frames (for the published ACTalker), and not both"
            )
        if motion is not None:
            return (motion_embedding_of(actalker, motion),)
        pictures, progress = ImageFrames(frames), host().progress(1).update
        faces = faces_of_frames(frames, face_detector, face_landmarks, chosen_face(face_index))
        return (driving_embedding_of(actalker, pictures, faces, fps, on_missing_face, progress),)
