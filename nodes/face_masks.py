"""Masks of a face: by contour or as boxes, of a portrait, a film or a batch of pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..runtime.faces import face_landmarker
from .face import CATEGORY, FACE_INDEX_INPUT, chosen_face

if TYPE_CHECKING:
    import numpy as np

    from ..core_models.types import ModelHandle, Portrait, PortraitVideo

CONTOURS, BOXES = SHAPES = ("contours", "boxes")
PER_FRAME, UNION = FRAME_CHOICES = ("per frame", "union")

_GROW_INPUT = (
    "FLOAT",
    {
        "default": 0.0,
        "min": -256.0,
        "max": 256.0,
        "step": 0.5,
        "tooltip": "Pixels by which the edges move outwards; negative ones move inwards.",
    },
)
_FEATHER_INPUT = (
    "FLOAT",
    {
        "default": 8.0,
        "min": 0.0,
        "max": 256.0,
        "step": 0.5,
        "tooltip": "Pixels over which the edge fades outwards; inside stays 1.",
    },
)


class FaceMaskBuilder:
    """Face, mouth and motion masks, by the contours of the landmarks or as boxes around them."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Draws masks of the face, the mouth, and the face without the mouth (the part a motion signal "
        "steers when speech steers the mouth), for a portrait or for every picture of a batch: by contours, or "
        "as boxes, as ACTalker defines them."
    )
    RETURN_TYPES = ("MASK", "MASK", "MASK", "IMAGE")
    RETURN_NAMES = ("face", "mouth", "motion", "preview")
    OUTPUT_TOOLTIPS = (
        "The face, from forehead to chin; one mask per picture, or one for all.",
        "The mouth: within the outer contour of the lips, or its box.",
        "The face without the mouth.",
        "The pictures with the masks over them, at most 512 pixels: the mouth orange, motion blue, the face's "
        "edge white, the rest dark.",
    )
    FUNCTION = "build"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        from ..core_models.face.box_masks import FACE_EXTENSION, MOUTH_BOXES
        from ..core_models.motion.missing_faces import MISSING_FACE_POLICIES

        policies = [policy for policy in MISSING_FACE_POLICIES if policy in ("error", "previous")]
        return {
            "required": {
                "grow": _GROW_INPUT,
                "feather": _FEATHER_INPUT,
                "on_missing_face": (
                    policies,
                    {
                        "default": "error",
                        "tooltip": "When a picture of the batch has no face: stop with an error, or repeat "
                        "the mask of the picture before it.",
                    },
                ),
                "face_index": FACE_INDEX_INPUT,
            },
            "optional": {
                "portrait": (
                    "PORTRAIT",
                    {"tooltip": "A portrait: one mask each, of its picture or of every frame of its film."},
                ),
                "image": (
                    "IMAGE",
                    {"tooltip": "Pictures or the frames of a video instead; needs the face detector."},
                ),
                "face_detector": ("FACE_MODEL", {"tooltip": "Finds the face in each picture of the batch."}),
                "shape": (
                    list(SHAPES),
                    {
                        "default": CONTOURS,
                        "tooltip": "Contours follow the landmarks; boxes are upright rectangles around them, which "
                        "ACTalker's masks are.",
                    },
                ),
                "mouth_box": (
                    list(MOUTH_BOXES),
                    {
                        "default": MOUTH_BOXES[0],
                        "tooltip": "Of boxes, what the mouth's is: around the lips, or the lower half of the "
                        "face's.",
                    },
                ),
                "extension": (
                    "FLOAT",
                    {
                        "default": FACE_EXTENSION,
                        "min": 1.0,
                        "max": 4.0,
                        "step": 0.05,
                        "tooltip": "Of boxes, how many times as wide and high they are as the landmarks' own, about "
                        "their centres. They end at the picture's edge.",
                    },
                ),
                "frames": (
                    list(FRAME_CHOICES),
                    {
                        "default": PER_FRAME,
                        "tooltip": "Of several pictures: one mask each, or one for all that takes in every one "
                        "(of boxes the smallest around all).",
                    },
                ),
            },
        }

    def build(
        self,
        grow: float,
        feather: float,
        on_missing_face: str,
        face_index: int,
        portrait: Portrait | PortraitVideo | None = None,
        image: Any = None,
        face_detector: ModelHandle | None = None,
        shape: str = CONTOURS,
        mouth_box: str = "lips",
        extension: float = 1.2,
        frames: str = PER_FRAME,
    ) -> tuple[Any, Any, Any, Any]:
        from ..core_models.face.box_masks import BoxParameters
        from ..core_models.face.region_masks import region_masks
        from .images import image_from_frames, mask_from_arrays

        if (portrait is None) == (image is None):
            raise ValueError("connect either portrait or image (with face_detector), and not both")
        expect_choice("frames", frames, FRAME_CHOICES)
        expect_choice("shape", shape, SHAPES)
        boxes = BoxParameters(extension, mouth_box, grow, feather) if shape == BOXES else None
        faces = (
            _faces_of_portrait(portrait)
            if portrait is not None
            else _faces_of_batch(image, face_detector, chosen_face(face_index), on_missing_face)
        )
        masks = region_masks(faces.landmarks, faces.size, grow, feather, boxes, frames == UNION)
        previews = image_from_frames(_previews(faces.pictures, masks), len(faces.landmarks))
        return (*(mask_from_arrays(mask) for mask in masks), previews)


@dataclass(frozen=True)
class _Faces:
    """What masks are drawn of. size: (width, height) of the pictures. landmarks: (K, 2 or more) pixels of each."""

    size: tuple[int, int]
    landmarks: list[Any]
    pictures: Iterable[np.ndarray]


def _faces_of_portrait(portrait: Portrait | PortraitVideo) -> _Faces:
    from ..core_models.types import portraits_of

    pictures = portraits_of(portrait)
    return _Faces(portrait.size, [one.landmarks for one in pictures], (one.frame for one in pictures))


def _faces_of_batch(
    image: Any, detector: ModelHandle | None, index: int | None, on_missing_face: str
) -> _Faces:
    from .images import checked_image, frames_from_image

    size = (checked_image(image).shape[2], image.shape[1])
    landmarks = _landmarks_of_batch(image, detector, index, on_missing_face)
    return _Faces(size, landmarks, frames_from_image(image))


def expect_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless a widget's value is one of its choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(choices)}")


def _previews(pictures: Iterable[np.ndarray], masks: tuple[np.ndarray, ...]) -> Iterable[np.ndarray]:
    """Yield each picture with its masks, or with the one set of a union, as they lie."""
    from ..core_models.face.masks import mask_preview

    for number, picture in enumerate(pictures):
        yield mask_preview(picture, *(mask[min(number, len(mask) - 1)] for mask in masks))


def _landmarks_of_batch(
    image: Any, detector: ModelHandle | None, index: int | None, on_missing_face: str
) -> list[Any]:
    from ..core_models.face.landmarker import FaceNotFoundError
    from ..core_models.face.tracking import follow_face
    from ..runtime.host import host
    from .images import frames_from_image

    if detector is None:
        raise ValueError("masks of an image need face_detector: connect a Load Face Detector node")
    progress = host().progress(len(image))
    found: list[Any] = []
    with face_landmarker(detector) as landmarker:
        for number, face in enumerate(follow_face(frames_from_image(image), landmarker, index)):
            if face is None and (on_missing_face == "error" or not found):
                raise FaceNotFoundError(
                    f"no face in picture {number} of {len(image)} (counted from 0): leave it out, or set "
                    "on_missing_face to previous (which the first picture cannot use)"
                )
            found.append(face.landmarks if face is not None else found[-1])
            progress.update(number + 1, len(image))
    return found
