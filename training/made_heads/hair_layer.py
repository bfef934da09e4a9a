"""Where hair lies on a made head, and strands painted beside the canvas until they are lit and laid over it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from .canvas import FRACTION_BITS, Canvas, curve, fixed
from .head_shape import PlacedHead
from .identity import MadeIdentity
from .skin import Light

HAIRLINE = (127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356)
"""Landmarks the hair begins at, from the picture's left to its right."""
COLUMNS = 61
VOLUMES = {"buzzed": (0.12, 0.15), "short": (0.35, 0.75), "bun": (0.25, 0.45), "swept": (0.4, 1.25)}
USUAL_VOLUME = (0.55, 0.95)
"""Centimetres the hair stands out at the sides and at the top, times the identity's own volume."""


@dataclass(frozen=True)
class HairSurface:
    """hairline, outline: (COLUMNS, 2) pixels, both from the picture's left to its right; hair lies between them."""

    hairline: np.ndarray
    outline: np.ndarray

    def at(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return pixels (..., 2) at places u in 0..1 from left to right, v from the hairline (0) to the outline (1)."""
        u, v = np.broadcast_arrays(np.asarray(u, np.float64), np.asarray(v, np.float64))
        index = np.clip(u, 0, 1) * (COLUMNS - 1)
        left = np.minimum(index.astype(int), COLUMNS - 2)
        share = (index - left)[..., None]
        low = self.hairline[left] * (1 - share) + self.hairline[left + 1] * share
        high = self.outline[left] * (1 - share) + self.outline[left + 1] * share
        return low + v[..., None] * (high - low)

    def region(self, start: float = 0.0) -> np.ndarray:
        """Return the outline (N, 2) in pixels of the surface from v = `start` outwards."""
        places = np.linspace(0, 1, COLUMNS)
        return np.concatenate([self.outline, self.at(places, np.full(COLUMNS, start))[::-1]])


def hair_surface(head: PlacedHead, identity: MadeIdentity, rng: np.random.Generator) -> HairSurface:
    """Return where an identity's hair lies as the camera sees it."""
    line = head.shape[list(HAIRLINE)].copy()
    place = np.linspace(-1, 1, len(line))
    top = 1 - place**2
    recession = np.exp(-0.5 * ((np.abs(place) - 0.5) / 0.16) ** 2) * max(identity.hairline, 0)
    line[:, 1] += identity.hairline * 0.8 * top + 0.7 * recession + 0.35 * top
    line[:, 0] *= 1 - 0.035 * np.exp(-0.5 * ((np.abs(place) - 0.72) / 0.15) ** 2)
    sideburn = 0.2 if identity.masculine > 0 else 1.2
    ends = line[[0, -1]] - np.array([(0, line[0, 1] - sideburn, 0.3), (0, line[-1, 1] - sideburn, 0.3)])
    line = curve(np.concatenate([ends[:1], line, ends[1:]]), COLUMNS)
    return HairSurface(head.projected(line)[:, :2], head.projected(_rim(head, identity, rng))[:, :2])


def _rim(head: PlacedHead, identity: MadeIdentity, rng: np.random.Generator) -> np.ndarray:
    """Return (COLUMNS, 3) centimetres: the hair's outer edge, a little uneven."""
    side, high = np.array(VOLUMES.get(identity.hair_style, USUAL_VOLUME)) * (
        0.45 + 0.75 * identity.hair_volume
    )
    angles = np.linspace(np.pi + 0.40, -0.40, COLUMNS)
    lift = np.clip(np.sin(angles), 0, 1)
    bumps = 0.16 * high * np.interp(np.linspace(0, 8, COLUMNS), np.arange(9), rng.normal(0, 1, 9))
    out = side * (1 - lift) + high * lift + bumps * lift + 0.1
    lower = 0.35 * np.clip(-np.sin(angles), 0, 1)
    flat = np.stack(
        [
            (head.skull_radii[0] + out - 2 * lower) * np.cos(angles),
            (head.skull_radii[1] + out) * np.sin(angles),
            np.zeros(COLUMNS),
        ],
        axis=1,
    )
    return head.skull_middle + flat


class HairLayer:
    """Strands beside the canvas: (S, S, 3) uint8 colours and an (S, S) uint8 cover."""

    def __init__(self, canvas: Canvas, identity: MadeIdentity, rng: np.random.Generator) -> None:
        """Begin empty."""
        self.canvas, self.identity, self.rng = canvas, identity, rng
        self.base = np.array(identity.hair, np.float64)
        self.colours = np.empty((canvas.size, canvas.size, 3), np.uint8)
        self.colours[:] = np.clip(0.6 * self.base + 3, 0, 255).astype(np.uint8)
        self.cover = np.zeros((canvas.size, canvas.size), np.uint8)

    def ground(self, outline: np.ndarray, tone: float = 0.55) -> None:
        """Fill an outline (N, 2) with the colour between strands."""
        colour = np.clip(self.base * tone + 5 * tone, 0, 255).tolist()
        cv2.fillPoly(self.colours, [fixed(outline)], colour, cv2.LINE_AA, FRACTION_BITS)
        cv2.fillPoly(self.cover, [fixed(outline)], 255, cv2.LINE_AA, FRACTION_BITS)

    def strands(self, lines: np.ndarray, tones: np.ndarray, width_cm: float = 0.1) -> None:
        """Draw strands (K, N, 2) in order, each of a brightness about 1; grey hair mixes with the rest."""
        width = max(1, round(width_cm * self.canvas.pixels_per_cm))
        grey = 34 * self.identity.grey * self.rng.uniform(-1, 1, len(lines))
        colours = np.clip(tones[:, None] * (self.base + 6) + grey[:, None], 0, 255).tolist()
        whole = np.rint(lines * (1 << FRACTION_BITS)).astype(np.int32)
        for line, colour in zip(whole, colours, strict=True):
            cv2.polylines(self.colours, [line], False, colour, width, cv2.LINE_AA, FRACTION_BITS)
        cv2.polylines(self.cover, list(whole), False, 255, width, cv2.LINE_AA, FRACTION_BITS)

    def lay(self, shade: np.ndarray, soft_cm: float = 0.03) -> None:
        """Blend the layer onto the canvas; shade: (S, S) how bright the light makes it."""
        soft = max(soft_cm * self.canvas.pixels_per_cm, 0.4)
        cover = cv2.GaussianBlur(self.cover, (0, 0), soft).astype(np.float32) / 255
        colours = cv2.GaussianBlur(self.colours, (0, 0), 0.6).astype(np.float32)
        self.canvas.blend(cover, np.clip(colours * shade[..., None], 0, 255))


def locks(places: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the tone about 1 of strands at places 0..1: neighbours belong to the same of `count` locks."""
    levels = rng.uniform(0.68, 1.22, count + 1)
    return np.interp(np.clip(places, 0, 1) * count, np.arange(count + 1), levels) * rng.uniform(
        0.8, 1.2, len(places)
    )


def hair_shade(canvas: Canvas, head: PlacedHead, light: Light) -> np.ndarray:
    """Return (S, S) float32 about 1: hair seen as a rough ball, lit, with a band of gloss."""
    middle = head.projected(head.skull_middle[None] + (0, 0, 4))[0, :2].astype(np.float32)
    reach = np.float32(canvas.pixels_per_cm * 10.5)
    places = np.arange(canvas.size, dtype=np.float32)
    across, up = ((places - middle[0]) / reach)[None, :], (-(places - middle[1]) / reach)[:, None]
    depth = np.sqrt(np.clip(1 - across**2 - up**2, 0.05, 1))
    to_right, to_top, to_camera = light.direction
    facing = across * to_right + up * to_top + depth * to_camera
    band = np.exp(-0.5 * ((up - 0.40 - 0.15 * to_top) / 0.17) ** 2) * np.clip(facing, 0, 1)
    contrast = float(light.key.mean()) / 1.15
    return 0.80 + contrast * (0.38 * np.clip(facing, -0.3, 1) - 0.10) + 0.30 * contrast * band
