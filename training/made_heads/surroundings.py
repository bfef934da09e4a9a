"""What a made head is seen with: backdrop, neck, clothes, ears and glasses."""

from __future__ import annotations

import cv2
import numpy as np

from ...core_models.face.topology import MESH_POINT_COUNT
from .canvas import Canvas, curve, ramp, smooth_noise
from .head_shape import PlacedHead
from .identity import MadeIdentity
from .skin import Light, lit

GLASSES_SHAPES = {"round": (2.25, 2.15, 2.0), "square": (2.55, 1.75, 5.0), "thin": (2.4, 1.5, 3.0)}
"""Half width, half height (centimetres) and squareness of a lens."""
GLASSES_WIDTH = {"round": 0.2, "square": 0.34, "thin": 0.13}


def draw_backdrop(canvas: Canvas, identity: MadeIdentity, rng: np.random.Generator) -> None:
    """Paint the whole canvas: plain, a gradient, soft discs of light, or a halo behind the head."""
    size = canvas.size
    first, second = np.array(identity.backdrop, np.float32), np.array(identity.second_backdrop, np.float32)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    side = np.sign(identity.light[0])
    share = {
        "plain": 0.12 * (y + side * (0.5 - x)),
        "gradient": np.clip(y * 0.8 + 0.35 * side * (0.5 - x), 0, 1),
        "bokeh": 0.5 + 0.3 * smooth_noise(size, size / 3, rng),
        "halo": ramp(0.15, 0.75, np.hypot(x - 0.5, y - 0.45)),
    }[identity.backdrop_kind]
    share = np.clip(share, 0, 1)[..., None]
    canvas.pixels[:] = first * (1 - share) + second * share * (
        0.55 if identity.backdrop_kind == "halo" else 1
    )
    if identity.backdrop_kind == "bokeh":
        for _ in range(9):
            radius = rng.uniform(0.8, 2.6)
            disc = canvas.dot_mask(rng.uniform(0, size, 2), (radius, radius), rng.uniform(0.15, 0.6))
            canvas.blend(disc, np.clip(second * 1.25 + rng.uniform(0, 60, 3), 0, 255), rng.uniform(0.15, 0.5))
    canvas.pixels += 0.9 * smooth_noise(size, size / 30, rng)[..., None]


def neck_half_width(identity: MadeIdentity) -> float:
    """Return centimetres."""
    young = float(np.clip((17 - identity.age) / 9, 0, 1))
    return 4.95 + 0.75 * identity.masculine - 0.9 * young


def draw_body(
    canvas: Canvas, head: PlacedHead, identity: MadeIdentity, light: Light, rng: np.random.Generator
) -> None:
    """Paint neck, shoulders and clothes; they do not turn with the head."""
    half, wide = neck_half_width(identity), identity.shoulders
    right = [(half, -4.0), (half * 0.98, -8.5), (half, -11.0), (half + 1.0, -12.8), (half + 4.2, -14.2)]
    right += [(wide - 3.0, -15.3), (wide - 0.6, -16.6), (wide + 0.4, -19)]
    side = curve(np.array(right), 50)
    body = np.concatenate([side, (side * (-1, 1))[::-1]])
    outline = _placed(head, body)
    mask = canvas.shape_mask(outline, 0.05)
    skin = _body_skin(canvas, head, identity, light, half)
    canvas.blend(mask, skin)
    _draw_clothes(canvas, head, identity, light, mask, half, rng)


def _placed(head: PlacedHead, flat: np.ndarray) -> np.ndarray:
    return head.still(np.column_stack([flat, np.zeros(len(flat))]))[:, :2]


def _body_skin(
    canvas: Canvas, head: PlacedHead, identity: MadeIdentity, light: Light, half: float
) -> np.ndarray:
    """Return (S, S, 3): skin on a cylinder, in the shade of the chin."""
    size = canvas.size
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    across = (x - size / 2) / canvas.pixels_per_cm
    high = -(y - size / 2) / canvas.pixels_per_cm - 1.0
    flare = half + 1.0 + 9 * ramp(-11.5, -15, high)
    turn = np.clip(across / flare, -0.98, 0.98)
    normal = np.stack([turn, 0.55 * ramp(-11, -15, high), np.sqrt(1 - turn**2)], axis=-1)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    cords = 0.05 * np.exp(-0.5 * ((np.abs(across) - 2.2 + 0.25 * (high + 11)) / 0.5) ** 2)
    shadow = 0.85 * _chin_shadow(canvas, head, light) + cords
    return lit(
        np.broadcast_to(np.array(identity.skin, np.float32) * (0.97, 0.93, 0.92), (size, size, 3)),
        normal,
        shadow,
        light,
        0.2 * identity.shine,
    )


def _chin_shadow(canvas: Canvas, head: PlacedHead, light: Light) -> np.ndarray:
    """Return (S, S) 0..1: the head's shadow on the neck."""
    outline = cv2.convexHull(np.ascontiguousarray(head.landmarks[:MESH_POINT_COUNT, :2]))[:, 0].astype(
        np.float64
    )
    fall = np.array([-1.6 * light.direction[0], 1.0 + 1.6 * light.direction[1]]) * canvas.pixels_per_cm
    return canvas.shape_mask(outline + fall, 0.55)


def _draw_clothes(
    canvas: Canvas,
    head: PlacedHead,
    identity: MadeIdentity,
    light: Light,
    body: np.ndarray,
    half: float,
    rng: np.random.Generator,
) -> None:
    size = canvas.size
    neckline = {
        "crew": [(half + 2.0, -12.9), (half + 0.6, -13.6), (2.8, -15.2), (0, -15.7)],
        "v": [(half + 2.4, -13.0), (half + 0.8, -13.7), (2.4, -16.6), (0, -18.8)],
        "shirt": [(half + 1.2, -12.0), (half - 0.2, -13.2), (1.6, -15.8), (0, -17.6)],
        "turtle": [(half + 0.9, -10.6), (half - 0.5, -11.3), (2.6, -11.9), (0, -12.1)],
    }[identity.collar]
    edge = curve(np.array([*neckline, *[(-x, y) for x, y in neckline[-2::-1]]]), 60)
    cloth = np.concatenate([edge, [(-30, -12), (-30, -30), (30, -30), (30, -12)]])
    wider = (
        body
        if identity.collar != "turtle"
        else cv2.dilate(
            body, np.ones((3, 3), np.uint8), iterations=max(1, round(0.12 * canvas.pixels_per_cm))
        )
    )
    mask = canvas.shape_mask(_placed(head, cloth), 0.04) * wider
    folds = smooth_noise(size, size / 9, rng) + 0.5 * smooth_noise(size, size / 22, rng)
    x = np.linspace(-1, 1, size, dtype=np.float32)[None, :]
    tone = 0.80 + 0.22 * x * light.direction[0] + 0.03 * folds
    tone = tone - 0.45 * _chin_shadow(canvas, head, light) * 0.6
    paint = np.array(identity.clothes, np.float32) * tone[..., None]
    line = _placed(head, edge)
    shadow = canvas.line_mask(line + np.array([0, -0.15 * canvas.pixels_per_cm]), 0.5, 0.2, taper=False)
    canvas.multiply(shadow * body, (0.6, 0.52, 0.5), 0.6)
    canvas.blend(mask, np.clip(paint, 0, 255))
    if identity.collar == "shirt":
        _draw_flaps(canvas, head, identity, half, body)
    else:
        rib = canvas.line_mask(line + np.array([0, 0.3 * canvas.pixels_per_cm]), 0.6, 0.06, taper=False)
        canvas.multiply(rib * mask, (0.82, 0.82, 0.84), 0.8)


def _draw_flaps(
    canvas: Canvas, head: PlacedHead, identity: MadeIdentity, half: float, body: np.ndarray
) -> None:
    light = np.clip(np.array(identity.clothes) * 1.08 + 10, 0, 255)
    for side in (-1, 1):
        flap = np.array([(side * (half + 0.9), -11.4), (side * (half - 0.1), -12.6), (side * 0.5, -16.9)])
        flap = np.concatenate([flap, [(side * 4.6, -17.4), (side * (half + 2.0), -13.4)]])
        outline = _placed(head, flap)
        shadow = canvas.shape_mask(outline + np.array([0, 0.25 * canvas.pixels_per_cm]), 0.25)
        canvas.multiply(shadow * body, (0.55, 0.55, 0.57), 0.6)
        canvas.fill(outline, light, 0.04)


def draw_ears(canvas: Canvas, head: PlacedHead, identity: MadeIdentity, light: Light) -> None:
    """Paint both ears; the head's skin is painted over their inner edge."""
    skin = np.array(identity.skin, np.float32) * (1.0, 0.90, 0.88)
    for side, index in ((-1, 234), (1, 454)):
        root = head.shape[index]
        bend = [
            (0.0, 2.7),
            (0.95, 3.1),
            (1.65, 2.3),
            (1.5, 0.6),
            (1.0, -0.9),
            (0.65, -2.2),
            (0.1, -2.9),
            (-0.6, -2.2),
        ]
        rim = np.array([(root[0] * 0.97 + side * x, root[1] + 0.3 + y, root[2] - 1.6) for x, y in bend])
        outline = curve(head.projected(rim)[:, :2], 50, closed=True)
        toward = 0.72 + 0.36 * max(side * light.direction[0], -0.4)
        canvas.fill(outline, np.clip(skin * toward, 0, 255), 0.05)
        middle = outline.mean(axis=0)
        inner = middle + 0.62 * (outline - middle)
        canvas.multiply(canvas.shape_mask(inner, 0.2), (0.66, 0.5, 0.46), 0.65)
        canvas.multiply(
            canvas.line_mask(middle + 0.86 * (outline[4:26] - middle), 0.22, 0.08), (1.14, 1.1, 1.08), 0.6
        )


def draw_glasses(canvas: Canvas, head: PlacedHead, identity: MadeIdentity) -> None:
    """Paint glasses, if the identity wears any."""
    if identity.glasses == "none":
        return
    wide, high, square = GLASSES_SHAPES[identity.glasses]
    width, colour = GLASSES_WIDTH[identity.glasses], np.array(identity.frame_colour)
    angles = np.linspace(0, 2 * np.pi, 49)
    corner = [np.sign(f(angles)) * np.abs(f(angles)) ** (2 / square) for f in (np.cos, np.sin)]
    shape, pixels = head.shape, canvas.pixels_per_cm
    for inner, outer, side in ((133, 33, -1), (362, 263, 1)):
        middle = (shape[inner] + shape[outer]) / 2 + (0.12 * side, -0.25, 0.9)
        ring = middle + np.stack([wide * corner[0], high * corner[1], np.zeros(49)], axis=1)
        line = head.projected(ring)[:, :2]
        canvas.multiply(
            canvas.line_mask(line + np.array([0, 0.22 * pixels]), width * 1.3, 0.15, taper=False),
            (0.6, 0.5, 0.48),
            0.4,
        )
        canvas.blend(canvas.shape_mask(line, 0.03), (235, 240, 245), 0.05)
        canvas.line(line, width, colour, 0.02, 0.95, taper=False)
        temple = np.array(
            [middle + np.array((side * wide, 0.5, 0)), shape[127 if side < 0 else 356] + (side * 0.2, 0.6, 0)]
        )
        canvas.line(head.projected(temple)[:, :2], width, colour, 0.02, 0.9, taper=False)
    bridge = [
        shape[33] * 0 + (x, shape[168][1] - 0.55 + up, shape[168][2] + 0.4)
        for x, up in ((-1.05, 0), (0, 0.28), (1.05, 0))
    ]
    canvas.line(curve(head.projected(np.array(bridge))[:, :2], 16), width, colour, 0.02, 0.95, taper=False)
