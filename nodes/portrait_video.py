"""A film whose face is to be edited, as a portrait for each of its frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..runtime.faces import face_landmarker
from .face import CATEGORY, FACE_INDEX_INPUT, chosen_face
from .motion import FPS_INPUT

if TYPE_CHECKING:
    from ..core_models.types import ModelHandle, PortraitVideo


class MakePortraitVideo:
    """The same face in every frame of a film."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Prepares a film for editing: the face is followed and cut out in every frame. Its portrait goes where a "
        "picture's goes; Stitch and the Warping Renderer then change the face and keep the film around it."
    )
    RETURN_TYPES = ("PORTRAIT", "FLOAT")
    RETURN_NAMES = ("portrait", "fps")
    OUTPUT_TOOLTIPS = ("The film with its face.", "Its frames per second, passed on.")
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.face.portrait_video import VIDEO_POLICIES

        return {
            "required": {
                "frames": ("IMAGE", {"tooltip": "The frames of the film."}),
                "fps": (
                    "FLOAT",
                    {**FPS_INPUT, "tooltip": "Frames per second of the film; connect the loader's fps."},
                ),
                "face_detector": ("FACE_MODEL", {"tooltip": "From Load Face Detector."}),
                "on_missing_face": (
                    list(VIDEO_POLICIES),
                    {
                        "default": "interpolate",
                        "tooltip": "When a frame has no face: error stops; previous takes the place of the face "
                        "before; interpolate goes over to the next.",
                    },
                ),
                "face_index": FACE_INDEX_INPUT,
                "smoothing": (
                    "INT",
                    {
                        "default": 2,
                        "min": 0,
                        "max": 20,
                        "tooltip": "Passes of smoothing over where the face is, so that the edge does not tremble.",
                    },
                ),
            }
        }

    def make(
        self,
        frames: Any,
        fps: float,
        face_detector: ModelHandle,
        on_missing_face: str,
        face_index: int,
        smoothing: int,
    ) -> tuple[PortraitVideo, float]:
        from ..core_models.face.portrait_video import portrait_video
        from ..runtime.host import host
        from .images import checked_image, frames_from_image

        total = len(checked_image(frames))
        progress = host().progress(total).update
        index = chosen_face(face_index)
        with face_landmarker(face_detector) as landmarker:
            video = portrait_video(
                frames_from_image(frames), fps, landmarker, total, on_missing_face, index, smoothing, progress
            )
        return video, fps
