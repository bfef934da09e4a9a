"""Faces: the detector, the portrait, and pasting a crop back. Masks are in `face_masks.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..runtime.faces import FACE_DETECTOR

if TYPE_CHECKING:
    from ..core_models.types import ModelHandle, Portrait, PortraitVideo

CATEGORY = "TalkingPortrait/Face"

AUTOMATIC = -1

FACE_INDEX_INPUT = (
    "INT",
    {
        "default": AUTOMATIC,
        "min": AUTOMATIC,
        "max": 99,
        "tooltip": "Which face, 0 the largest. -1 takes the only one, or the one clearly largest.",
    },
)


class LoadFaceDetector:
    """The face landmark bundle, as a handle."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Finds the MediaPipe face landmark bundle (3.7 MB, Apache-2.0), which detects faces, 478 landmarks "
        "and expressions. Nothing is fetched unless you switch it on."
    )
    RETURN_TYPES = ("FACE_MODEL",)
    RETURN_NAMES = ("face_detector",)
    OUTPUT_TOOLTIPS = ("For Portrait, Face-Mask Builder and Motion from Video.",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": (
                    [FACE_DETECTOR],
                    {"default": FACE_DETECTOR, "tooltip": "Which detector to use."},
                ),
                "download_if_missing": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Fetch the file when no models folder holds it. Its checksum is verified.",
                    },
                ),
            }
        }

    def load(self, model: str, download_if_missing: bool) -> tuple[ModelHandle]:
        from ..runtime.faces import face_detector
        from ..runtime.host import host

        return (face_detector(model, download_if_missing, host().progress(1).update),)


class MakePortrait:
    """One face in one picture, ready to be animated."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Prepares the face that will talk: from known landmarks, from ComfyUI's own face nodes, from a box, "
        "or found by a face detector. The first of these that is connected counts."
    )
    RETURN_TYPES = ("PORTRAIT", "IMAGE")
    RETURN_NAMES = ("portrait", "crop")
    OUTPUT_TOOLTIPS = (
        "The picture with its face, landmarks and head pose.",
        "The square crop around the face, upright; Paste Back knows where it belongs.",
    )
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.face.ffhq_crop import CROP_STYLES

        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The picture. Of a batch, picture_index says which one."}),
                "face_index": FACE_INDEX_INPUT,
                "largest_side": (
                    "INT",
                    {
                        "default": 1024,
                        "min": 0,
                        "max": 8192,
                        "step": 64,
                        "tooltip": "Larger pictures are shrunk to this many pixels on their longer side: "
                        "videos of 1024 render several times faster than those of 2048. 0 keeps the size. "
                        "Odd sides lose one pixel, because mp4 needs even ones.",
                    },
                ),
                "picture_index": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 99999,
                        "tooltip": "Which picture of a batch, counted from 0.",
                    },
                ),
            },
            "optional": {
                "landmarks": (
                    "STRING",
                    {
                        "default": "",
                        "names_file": "input",
                        "tooltip": "Path of a landmarks file (JSON), as Load Portrait Image gives it. Empty: "
                        "the face is looked for.",
                    },
                ),
                "face_landmarks": (
                    "FACE_LANDMARKS",
                    {"tooltip": "Faces found by ComfyUI's own MediaPipe node on the same picture."},
                ),
                "bounding_box": (
                    "BOUNDING_BOX",
                    {
                        "forceInput": True,  # newer pages would draw a widget and always send a box
                        "tooltip": "A box around the face; the face detector then reads the face inside it.",
                    },
                ),
                "face_detector": (
                    "FACE_MODEL",
                    {
                        "tooltip": "Finds the face when it is not given. Not connected: the face detector's file is "
                        "used if it is in a models folder."
                    },
                ),
                "crop_style": (
                    list(CROP_STYLES),
                    {
                        "default": CROP_STYLES[0],
                        "tooltip": "The square around the face that networks see: LivePortrait's, turned with the "
                        "face, or KDTalker's, tighter and upright.",
                    },
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, landmarks: str | None = "") -> bool | str:
        from ..runtime.input_files import text_validity

        return text_validity(landmarks)

    @classmethod
    def IS_CHANGED(cls, landmarks: str | None = "", **_: Any) -> str:
        from ..runtime.input_files import file_fingerprint, input_path

        return file_fingerprint(input_path(landmarks.strip())) if landmarks and landmarks.strip() else ""

    def make(
        self,
        image: Any,
        face_index: int,
        largest_side: int,
        picture_index: int,
        landmarks: str = "",
        face_landmarks: Any = None,
        bounding_box: Any = None,
        face_detector: ModelHandle | None = None,
        crop_style: str = "LivePortrait",
    ) -> tuple[Portrait, Any]:
        from ..core_models.face.crop import crop_face
        from ..runtime.faces import finished_portrait
        from .images import frame_from_image, image_from_frames

        frame = frame_from_image(image, picture_index)
        index = chosen_face(face_index)
        if landmarks.strip():
            portrait = _portrait_from_file(frame, landmarks.strip())
        elif face_landmarks is not None:
            from ..core_models.face.portrait import portrait_from_comfy_landmarks

            portrait = portrait_from_comfy_landmarks(frame, face_landmarks, index, picture_index)
        else:
            portrait = _portrait_by_detector(frame, face_detector, index, bounding_box, picture_index)
        portrait = finished_portrait(portrait, largest_side, crop_style)
        crop = crop_face(portrait.frame, portrait.crop_to_frame, portrait.crop_size)
        return portrait, image_from_frames([crop])


def _portrait_from_file(frame: Any, name: str) -> Portrait:
    from ..runtime.faces import portrait_by_landmarks_file
    from ..runtime.input_files import input_path

    return portrait_by_landmarks_file(frame, input_path(name))


def _portrait_by_detector(
    frame: Any, detector: ModelHandle | None, index: int | None, bounding_box: Any, picture_index: int
) -> Portrait:
    from ..core_models.face.comfy_boxes import box_from_comfy
    from ..runtime.faces import portrait_by_detector

    box = box_from_comfy(bounding_box, index, picture_index) if bounding_box is not None else None
    return portrait_by_detector(frame, detector or _detector_that_is_here(), index, box)


def _detector_that_is_here() -> ModelHandle:
    from ..runtime.faces import face_detector
    from ..runtime.weights import WeightNotFoundError

    try:
        return face_detector()
    except WeightNotFoundError as error:
        raise ValueError(
            "nothing says where the face is, and the face detector is not here: fetch it (talking-portrait weights "
            "fetch face_landmarker, 3.7 MB), or connect Load Face Detector with download_if_missing on, landmarks "
            "or face_landmarks"
        ) from error


def chosen_face(face_index: int) -> int | None:
    """Return the widget's face index, -1 meaning that the choice is automatic."""
    return None if face_index == AUTOMATIC else face_index


class PasteBack:
    """Crops laid back over the portrait's picture."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Lays face crops back over the whole picture, where the portrait says they came from, through a mask "
        "with a soft edge. Outside the mask the picture stays bit-equal."
    )
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("One whole picture per crop.",)
    FUNCTION = "paste"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "portrait": (
                    "PORTRAIT",
                    {"tooltip": "Says where the crops belong: in a picture, or each in its frame of a film."},
                ),
                "crop": ("IMAGE", {"tooltip": "Square crops, one or many, as Portrait gives them."}),
                "feather": (
                    "FLOAT",
                    {
                        "default": 0.08,
                        "min": 0.0,
                        "max": 0.5,
                        "step": 0.01,
                        "tooltip": "Width of the soft edge as a share of the crop's side. Without an effect "
                        "when a mask is connected.",
                    },
                ),
            },
            "optional": {
                "mask": (
                    "MASK",
                    {
                        "tooltip": "What to paste, of the crop's size or of the picture's; one for all "
                        "crops, or one per crop."
                    },
                ),
            },
        }

    def paste(
        self, portrait: Portrait | PortraitVideo, crop: Any, feather: float, mask: Any = None
    ) -> tuple[Any]:
        from ..core_models.face.pasting import paste_crops
        from .images import checked_image, frames_from_image, image_from_frames, masks_from_mask

        masks = masks_from_mask(mask) if mask is not None else None
        count = len(checked_image(crop))
        frames = paste_crops(portrait, frames_from_image(crop), count, masks, feather)
        return (image_from_frames(frames, count),)
