"""The mouth's inside: painted in the photo's own colours, with the photo's own teeth where they show.

The warp stays continuous over the opening (it merely stretches the lip line), and the inside is laid over it
through a mask of its own, so nothing tears.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..face.topology import LIPS_LOWER_INNER, LIPS_UPPER_INNER
from .curves import (
    blend,
    bounding_window,
    continued,
    fit_affine,
    opening_outline,
    outline_mask,
)
from .displacement import smoothstep
from .lips import lip_gap, mouth_width
from .painted_mouth import MouthColours, mix, mouth_colours, painted_mouth

MASK_BLUR = 0.012
"""Mouth widths."""
FADE_IN = (0.012, 0.042)
"""Gap over mouth width between which the inside appears."""
OWN_INTERIOR_INSET = 0.02
OWN_INTERIOR_FEATHER = 0.025

SKIN_SATURATION = (0.10, 0.28)
"""Below the first a face is grey stone or a drawing, which has a dark cavity and no white teeth."""
LIP_HUE_STEP = (0.008, 0.028)
"""Change of colour shares from skin to lips: below the first the lips are carved."""
RIM_WIDTH = 0.07
RIM_LIP_SHARE = 0.42
"""Along the lips the inside turns to their own wet flesh, this dark."""
OWN_SHADED = 0.65
"""How far an open photo's own teeth pass into the colour of flesh as the lips come close."""
OWN_SHADED_GAP = (0.1, 0.7)
"""Gap over the photo's own between which that shade fades."""
OWN_ABOVE = 0.10
"""Mouth widths above an open photo's inner lip over which its teeth are continued, for a lip that rises."""
GRAIN_LIMIT = 3.0
GRAIN_IN_THE_DARK = 0.4
GRAIN_SEED = 20240917
GRAIN_TILE = 256

_UPPER, _LOWER = list(LIPS_UPPER_INNER), list(LIPS_LOWER_INNER)
_CHEEKS_AND_CHIN = (50, 280, 205, 425, 101, 330, 199, 36, 266)
_LIP_BODY = (0, 17, 37, 267, 84, 314, 11, 16, 72, 302, 85, 315)


@dataclass(frozen=True)
class MouthInterior:
    """What a photo says about the inside of its mouth.

    colours: what its inside is painted with.
    seam: (3,) polynomial coefficients of the resting upper lip line, y(x) in canonical centimetres.
    half_width, rest_gap: canonical centimetres, the gap at least a tenth.
    rest_frame: (2, 3) affine from canonical (x, y) at the lips to the picture.
    grain: (GRAIN_TILE, GRAIN_TILE) float32 noise as strong as the photo's own.
    own: (h, w) float32 0..1, where the photo's own open mouth shows its inside, None for a closed mouth;
        own_texture: (h, w, 3) uint8, that inside, continued under the upper lip; own_origin: their corner
            (x, y).
    """

    colours: MouthColours
    seam: np.ndarray
    half_width: float
    rest_gap: float
    rest_frame: np.ndarray
    grain: np.ndarray
    own: np.ndarray | None
    own_texture: np.ndarray | None
    own_origin: tuple[int, int]


def make_mouth_interior(
    picture: np.ndarray, points: np.ndarray, shape: np.ndarray, rest_frame: np.ndarray, is_open: bool
) -> MouthInterior:
    """Read the photo's colours and, when its mouth is open, where its own inside shows.

    picture: (H, W, 3) uint8; points: (>= 468, 2) landmarks in its pixels; shape: (>= 468, 3) canonical
        centimetres;
    rest_frame: (2, 3) affine from canonical (x, y) at the depth of the lips to the picture.
    """
    radius = 0.05 * mouth_width(points)
    lip = _median_colour(picture, points[list(_LIP_BODY)], radius)
    skin = _median_colour(picture, points[list(_CHEEKS_AND_CHIN)], 2 * radius)
    own, texture, origin = _own_interior(picture, points) if is_open else (None, None, (0, 0))
    return MouthInterior(
        colours=mouth_colours(skin, lip, _liveliness(skin, lip)),
        seam=np.polyfit(shape[_UPPER, 0], shape[_UPPER, 1], 2).astype(np.float32),
        half_width=mouth_width(shape) / 2,
        rest_gap=max(lip_gap(shape), 0.1),
        rest_frame=rest_frame,
        grain=_grain(picture, points[list(_CHEEKS_AND_CHIN)], 3 * radius),
        own=own,
        own_texture=texture,
        own_origin=origin,
    )


def _liveliness(skin: np.ndarray, lip: np.ndarray) -> float:
    """Return 0 for carved or colourless faces to 1 for living and painted ones.

    A statue's lips have the colour of its skin, and marble or a drawing has no colour at all.
    """
    brightest, darkest = float(skin.max()), float(skin.min())
    saturation = (brightest - darkest) / max(brightest, 1.0)
    hue_step = float(np.abs(lip / max(lip.sum(), 1.0) - skin / max(skin.sum(), 1.0)).sum())
    return float(smoothstep(*SKIN_SATURATION, saturation) * smoothstep(*LIP_HUE_STEP, hue_step))


def draw_mouth_interior(
    canvas: np.ndarray,
    mouth: MouthInterior,
    points: np.ndarray,
    shape: np.ndarray,
    frame: np.ndarray,
    fade: float,
    rounding: float,
) -> None:
    """Lay the inside of the mouth over the warped canvas (h, w, 3) uint8, in place.

    points: (N, 2) moved mesh in canvas pixels; shape: (N, 3) moved face in canonical centimetres, lips
        settled.
    frame: (2, 3) affine from canonical (x, y) at the lips to the canvas, moved by the head alone.
    fade: 0..1; 0 leaves an open photo as it is.
    rounding: 0..1, how much the lips are pursed away from the teeth.
    """
    width = mouth_width(points)
    gap = lip_gap(shape)
    strength = fade * float(smoothstep(*FADE_IN, gap / mouth_width(shape)))
    upper, lower = points[_UPPER], points[_LOWER]
    window = bounding_window(np.concatenate([upper, lower]), 2 + 3 * MASK_BLUR * width, canvas.shape[1::-1])
    if strength <= 0 or window is None:
        return
    mask = outline_mask(opening_outline(upper, lower), window, MASK_BLUR * width)
    x, y = _canonical_coordinates(frame, window)
    pixel = 1 / max(float(np.linalg.norm(frame[:, 0])), 1e-6)
    layer = painted_mouth(mouth.colours, x, y, pixel, shape, mouth.seam, mouth.half_width, rounding)
    if mouth.own is not None:
        shade = OWN_SHADED * float(1 - smoothstep(*OWN_SHADED_GAP, gap / mouth.rest_gap))
        layer = _with_own_interior(layer, mouth, window, frame, shade)
    rim = _nearness_to_lips(mask, width)
    mix(layer, mouth.colours.flesh * RIM_LIP_SHARE, rim * 0.85)
    layer += _tiled(mouth.grain, window)[..., None]
    blend(canvas, window, layer, mask * strength)


def _nearness_to_lips(mask: np.ndarray, width: float) -> np.ndarray:
    """Return (h, w): 1 on the lips' inner edge, falling to 0 about RIM_WIDTH mouth widths from it.

    Read from a blurred mask rather than from distances, which go in whole pixels and would flicker.
    """
    reach = max(RIM_WIDTH * width, 1.5)
    inside = cv2.GaussianBlur(mask, (0, 0), 0.5 * reach, borderType=cv2.BORDER_CONSTANT)
    return 1 - smoothstep(0.5, 0.98, inside)


def _canonical_coordinates(
    frame: np.ndarray, window: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (h, w) canonical x and y of each pixel of a window, at the depth of the lips."""
    inverse = cv2.invertAffineTransform(frame.astype(np.float64)).astype(np.float32)
    left, top, right, bottom = window
    columns = np.arange(left, right, dtype=np.float32)[None, :]
    rows = np.arange(top, bottom, dtype=np.float32)[:, None]
    x = inverse[0, 0] * columns + inverse[0, 1] * rows + inverse[0, 2]
    y = inverse[1, 0] * columns + inverse[1, 1] * rows + inverse[1, 2]
    return x, y


def _with_own_interior(
    layer: np.ndarray,
    mouth: MouthInterior,
    window: tuple[int, int, int, int],
    frame: np.ndarray,
    shade: float,
) -> np.ndarray:
    """Return the layer with the photo's own teeth over it, moved rigidly with the skull."""
    left, top, right, bottom = window
    to_photo = _composed(mouth.rest_frame, cv2.invertAffineTransform(frame.astype(np.float64)))
    to_photo = _composed(to_photo, np.array([[1, 0, left], [0, 1, top]], np.float64))
    to_photo -= np.array([[0, 0, mouth.own_origin[0]], [0, 0, mouth.own_origin[1]]])
    size, flags = (right - left, bottom - top), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    own = cv2.warpAffine(mouth.own_texture, to_photo, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mouth.own, to_photo, size, flags=flags)
    shaded = own + np.float32(shade) * (RIM_LIP_SHARE * mouth.colours.flesh - own)
    return layer + (shaded - layer) * weight[..., None]


def _composed(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Return the affine (2, 3) float64 that applies `inner`, then `outer`."""
    return (np.vstack([outer, [0, 0, 1]]) @ np.vstack([inner, [0, 0, 1]]))[:2].astype(np.float64)


def _own_interior(
    picture: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None, tuple[int, int]]:
    """Return (weight, texture, their corner): an open photo's own inside, inset and continued upwards."""
    width = mouth_width(points)
    upper, lower = points[_UPPER], points[_LOWER]
    window = bounding_window(np.concatenate([upper, lower]), 4 + 0.15 * width, picture.shape[1::-1])
    if window is None:
        return None, None, (0, 0)
    left, top, right, bottom = window
    inside = (outline_mask(opening_outline(upper, lower), window, 0.0) > 0.5).astype(np.uint8)
    across = (upper[-1] - upper[0]) / width
    raised = upper + OWN_ABOVE * width * np.array([across[1], -across[0]]) * np.sign(across[0])
    extended = (outline_mask(opening_outline(raised, lower), window, 0.0) > 0.5).astype(np.uint8)
    extended |= inside
    inset = OWN_INTERIOR_INSET * width
    sure = (cv2.distanceTransform(inside, cv2.DIST_L2, 3) > inset).astype(np.uint8)
    if not sure.any():
        return None, None, (0, 0)
    texture = continued(picture[top:bottom, left:right], sure)
    distance = cv2.distanceTransform(extended, cv2.DIST_L2, 3)
    weight = smoothstep(inset * 0.5, inset + OWN_INTERIOR_FEATHER * width, distance)
    weight = cv2.GaussianBlur(weight.astype(np.float32), (0, 0), 0.7)
    return weight, np.rint(texture).astype(np.uint8), window[:2]


def _median_colour(picture: np.ndarray, points: np.ndarray, radius: float) -> np.ndarray:
    """Return (3,) float32: the median over small squares around points (N, 2) that lie in the picture."""
    squares = _squares(picture, points, max(1, round(radius)))
    return np.median(np.concatenate([square.reshape(-1, 3) for square in squares]), axis=0).astype(np.float32)


def _squares(picture: np.ndarray, points: np.ndarray, half: int) -> list[np.ndarray]:
    height, width = picture.shape[:2]
    centres = np.clip(np.rint(points).astype(int), 0, (width - 1, height - 1))
    return [
        picture[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1] for x, y in centres.tolist()
    ]


def _grain(picture: np.ndarray, points: np.ndarray, radius: float) -> np.ndarray:
    """Return a tile of noise as strong as the photo's finest detail on smooth skin."""
    residues = []
    for square in _squares(picture, points, max(3, round(radius))):
        grey = square.mean(axis=2).astype(np.float32)
        residues.append(np.median(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.2))) / 0.6745)
    strength = float(np.clip(np.median(residues), 0.0, GRAIN_LIMIT)) * GRAIN_IN_THE_DARK
    noise = np.random.default_rng(GRAIN_SEED).standard_normal((GRAIN_TILE, GRAIN_TILE)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 0.6, borderType=cv2.BORDER_REFLECT)
    return soft * (strength / float(soft.std()))


def _tiled(tile: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = window
    rows = np.arange(top, bottom) % tile.shape[0]
    columns = np.arange(left, right) % tile.shape[1]
    return tile[rows[:, None], columns[None, :]]


def skull_frame(origin: np.ndarray, right: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return the affine (2, 3) from canonical (x, y) to pixels that (0, 0), (1, 0) and (0, 1) land on."""
    return fit_affine(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.stack([origin, right, up]))
