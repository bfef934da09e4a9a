"""The portrait and its masks as a model takes them: framed, at its size, masks binary."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ...face.masks import binary_mask

WHOLE_PICTURE, AROUND_FACE = "whole picture", "around the face"
FRAMINGS = (WHOLE_PICTURE, AROUND_FACE)
FACE_SHARE = 0.86
"""Height of the face over the side of a picture framed around it."""
FACE_DROP = 0.02
"""Of the side: how far the face lies above the middle."""


@dataclass(frozen=True)
class PreparedPicture:
    """What a model sees of a portrait.

    picture: (H, W, 3) uint8 RGB. face, mouth, motion: (H, W) float32, 0 or 1.
    """

    picture: np.ndarray
    face: np.ndarray
    mouth: np.ndarray
    motion: np.ndarray


def prepared_picture(
    frame: np.ndarray,
    masks: tuple[np.ndarray, np.ndarray, np.ndarray],
    shorter_side: int,
    multiple: int,
    landmarks: np.ndarray | None = None,
) -> PreparedPicture:
    """Return a portrait's picture and its face, mouth and motion masks at a model's size.

    frame: (H, W, 3) uint8. masks: (H, W) in 0..1 each, of the frame's size. shorter_side: pixels the shorter side gets;
    both sides are then rounded to a multiple, at most half of it away, so the aspect may change a little, as in the
    released code. landmarks: (K, 2 or more) pixels; given, the picture is cut around the face first.
    Raises ValueError for masks of another size, or a size below one multiple.
    """
    for name, mask in zip(("face", "mouth", "motion"), masks, strict=True):
        if mask.shape != frame.shape[:2]:
            height, width = frame.shape[:2]
            raise ValueError(
                f"the {name} mask is {mask.shape[1]} x {mask.shape[0]} px, the portrait {width} x {height}: make the "
                "masks of this portrait, at its size"
            )
    layers = [frame, *(np.asarray(mask, np.float32) for mask in masks)]
    if landmarks is not None:
        square = face_square(landmarks)
        layers = [cut_out(layer, square) for layer in layers]
    size = model_size(layers[0].shape[1], layers[0].shape[0], shorter_side, multiple)
    picture, *resized = (
        cv2.resize(layer, size, interpolation=_interpolation(layer, size)) for layer in layers
    )
    face, mouth, motion = (binary_mask(np.clip(mask, 0, 1)) for mask in resized)
    return PreparedPicture(picture, face, mouth, motion)


def model_size(width: int, height: int, shorter_side: int, multiple: int) -> tuple[int, int]:
    """Return (width, height): the shorter side at `shorter_side`, both rounded to multiples, at least one."""
    if shorter_side < multiple:
        raise ValueError(f"an image size of {shorter_side} px is below the model's least, {multiple} px")
    factor = shorter_side / min(width, height)
    return tuple(max(round(side * factor / multiple), 1) * multiple for side in (width, height))


def face_square(landmarks: np.ndarray) -> tuple[int, int, int]:
    """Return left, top and side of the square around a face, whose height is FACE_SHARE of it; it may leave the
    picture.
    """
    low, high = landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0)
    side = max(round(float(high[1] - low[1]) / FACE_SHARE), 1)
    middle = (low + high) / 2 + (0, FACE_DROP * side)
    left, top = np.rint(middle + 0.5 - side / 2).astype(int).tolist()
    return left, top, side


def cut_out(layer: np.ndarray, square: tuple[int, int, int]) -> np.ndarray:
    """Return the square of a picture or mask; what lies outside repeats the picture's edge, and is 0 in masks."""
    left, top, side = square
    height, width = layer.shape[:2]
    before, after = max(-left, 0), max(left + side - width, 0)
    above, below = max(-top, 0), max(top + side - height, 0)
    mode = {"mode": "edge"} if layer.ndim == 3 else {"mode": "constant"}
    padded = np.pad(layer, ((above, below), (before, after), *[(0, 0)] * (layer.ndim - 2)), **mode)
    return padded[top + above : top + above + side, left + before : left + before + side]


def _interpolation(layer: np.ndarray, size: tuple[int, int]) -> int:
    return cv2.INTER_AREA if size[0] < layer.shape[1] else cv2.INTER_LANCZOS4
