"""How each hair style is painted: as many strokes that follow the way it is combed."""

from __future__ import annotations

import cv2
import numpy as np

from .canvas import Canvas, curve, curves, smooth_noise
from .hair_layer import HairLayer, HairSurface, hair_shade, hair_surface, locks
from .head_shape import PlacedHead
from .identity import MadeIdentity
from .skin import HeadField, Light, beard_density

LONG_STYLES = ("bob", "long", "wavy")
STRANDS = 560
SHADE_BEHIND = 0.72
LOCKS = 26
BEARD_LENGTHS = {"moustache": 0.5, "goatee": 0.55, "short beard": 0.38, "full beard": 0.8}
"""Centimetres."""


def draw_hair_behind(
    canvas: Canvas, head: PlacedHead, identity: MadeIdentity, light: Light, rng: np.random.Generator
) -> None:
    """Paint what of the hair is behind head and neck."""
    layer = HairLayer(canvas, identity, rng)
    if identity.hair_style == "bun":
        _draw_bun(layer, head)
    elif identity.hair_style == "curly":
        _draw_halo_of_curls(layer, head)
    elif identity.hair_style in LONG_STYLES:
        _draw_back(layer, head)
    else:
        return
    layer.lay(SHADE_BEHIND * hair_shade(canvas, head, light))


def draw_hair_front(
    canvas: Canvas, head: PlacedHead, identity: MadeIdentity, light: Light, rng: np.random.Generator
) -> None:
    """Paint the hair that is seen on the head, before the brow and beside the face."""
    style = identity.hair_style
    if style == "bald":
        return
    surface = hair_surface(head, identity, rng)
    layer = HairLayer(canvas, identity, rng)
    shade = hair_shade(canvas, head, light)
    _shade_below(canvas, surface)
    if style == "buzzed":
        _draw_buzzed(layer, surface, shade)
        return
    layer.ground(surface.region(0.10))
    if style == "curly":
        _draw_curls(layer, surface)
    elif style in ("short", "swept", "bun"):
        _draw_swept(layer, surface, short=style == "short")
    elif style in LONG_STYLES:
        _draw_falling(layer, head, surface)
    else:
        _draw_parted(layer, surface)
    if style == "fringe" or (style == "bob" and identity.curliness > 0.5):
        _draw_fringe(layer, head, surface)
    if style != "curly":
        _draw_stray(layer, surface)
    layer.lay(shade)


def hair_length(identity: MadeIdentity) -> float:
    """Return the y, canonical centimetres, where long hair ends."""
    return (
        -8.0 - 1.5 * identity.curliness if identity.hair_style == "bob" else -13.5 - 4.0 * identity.curliness
    )


def _shade_below(canvas: Canvas, surface: HairSurface) -> None:
    """Darken the skin under the hairline a little."""
    line = surface.hairline + np.array([0, 0.12 * canvas.pixels_per_cm])
    canvas.multiply(canvas.line_mask(line, 0.9, 0.3, taper=False), (0.68, 0.60, 0.56), 0.55)


def _draw_buzzed(layer: HairLayer, surface: HairSurface, shade: np.ndarray) -> None:
    canvas = layer.canvas
    mask = canvas.shape_mask(surface.region(), 0.3)
    grain = 0.86 + 0.10 * smooth_noise(canvas.size, canvas.pixels_per_cm * 0.14, layer.rng)
    paint = layer.base.astype(np.float32) * (0.9 * shade * grain)[..., None] + 4
    canvas.blend(mask, np.clip(paint, 0, 255), 0.8)


def _draw_swept(layer: HairLayer, surface: HairSurface, short: bool) -> None:
    """Strands from the hairline back over the head; short ones overlap like tiles."""
    rng, count = layer.rng, STRANDS + 500 * short
    t = np.linspace(0, 1, 7)
    u = rng.uniform(0, 1, (count, 1))
    v = rng.uniform(-0.07, 0.92, (count, 1)) if short else rng.uniform(-0.06, 0.55, (count, 1))
    v = np.sort(v, axis=0)[::-1]
    length = rng.uniform(0.15, 0.38, (count, 1)) if short else rng.uniform(0.4, 0.75, (count, 1))
    lean = (0.5 - u) * 0.12 + rng.normal(0, 0.015, (count, 1)) + 0.05 * layer.identity.part
    lines = surface.at(u + lean * t, np.minimum(v + length * t, 1.03))
    tones = locks(u[:, 0], LOCKS, rng) ** (0.6 if short else 1.0) * (0.82 + 0.28 * v[:, 0])
    layer.strands(lines, tones, 0.06 if short else 0.1)


def _draw_parted(layer: HairLayer, surface: HairSurface) -> None:
    """Strands from a parting over both sides, the front ones raised above the hairline."""
    rng, part = layer.rng, 0.5 + 0.33 * layer.identity.part
    t = np.linspace(0, 1, 14)
    v = rng.uniform(-0.02, 1.0, (STRANDS, 1))
    to_right = rng.random((STRANDS, 1)) < 1 - part
    reach = rng.uniform(0.5, 1.0, (STRANDS, 1)) * np.where(to_right, 1 - part, -part)
    bow = (0.26 * np.sin(np.pi * t) - 0.20 * t**2 * v) * (1 - v) + rng.normal(0, 0.02, (STRANDS, 1)) * t
    lines = surface.at(
        part + rng.normal(0, 0.012, (STRANDS, 1)) + reach * t**0.8, np.clip(v + bow, -0.03, 1.02)
    )
    layer.strands(lines, locks(0.5 * v[:, 0] + 0.5 * to_right[:, 0], LOCKS, rng))


def _draw_falling(layer: HairLayer, head: PlacedHead, surface: HairSurface) -> None:
    """Long strands from a parting over the head's side and down beside the face."""
    rng, identity = layer.rng, layer.identity
    part, length = 0.5 + 0.22 * identity.part, hair_length(identity)
    wide = head.skull_radii[0] + 0.5 + 1.1 * identity.hair_volume
    temple = float(np.abs(head.shape[[127, 356], 0]).mean())
    for side in (-1, 1):
        count = STRANDS // 2
        share = np.sort(rng.uniform(0, 1, count))[::-1]
        out = np.clip(share + rng.normal(0, 0.04, count), -0.02, 1.05)
        turn, near = (0.16, 0.34) if side < 0 else (0.84, 0.66)
        points = [
            surface.at(part + rng.normal(0, 0.01, count), 0.04 + 0.92 * share),
            surface.at(0.5 * part + 0.5 * near, 0.06 + 0.92 * share),
            surface.at(np.full(count, turn), 0.10 + 0.90 * share),
        ]
        for y, inner, outer in (
            (0.5, temple * 0.97, wide * 1.01),
            (-4.5, temple * 0.93, wide * 1.05),
            (length * 0.8, temple * 0.80, wide * 1.02),
            (length + 0.5 * np.abs(rng.normal(0, 1, count)), temple * 0.74, wide * 0.94),
        ):
            across = side * (inner + (outer - inner) * out)
            flat = np.stack([across, np.broadcast_to(y, across.shape), np.full(count, -1.0)], axis=1)
            points.append(head.projected(flat)[:, :2])
        lines = curves(np.stack(points, axis=1), 30)
        tones = locks(share, LOCKS // 2, rng) * (0.75 + 0.30 * np.sin(np.pi * np.clip(share, 0, 1)))
        layer.strands(_waved(lines, layer, share), tones, 0.13)


def _waved(lines: np.ndarray, layer: HairLayer, share: np.ndarray) -> np.ndarray:
    """Return strands (K, N, 2) swinging from side to side the further down, when the style is wavy."""
    if layer.identity.hair_style != "wavy":
        return lines
    pixels = layer.canvas.pixels_per_cm
    phase = lines[..., 1] / pixels * (0.9 + 0.5 * layer.identity.curliness) + 3 * share[:, None]
    swing = np.linspace(0, 1, lines.shape[1]) ** 1.5 * np.sin(phase) * 0.6 * pixels
    return lines + np.stack([swing, 0 * swing], axis=-1)


def _draw_back(layer: HairLayer, head: PlacedHead) -> None:
    """What hangs behind the neck."""
    length, wide = hair_length(layer.identity), head.skull_radii[0] + 0.4 + 1.0 * layer.identity.hair_volume
    side = [
        (wide * 0.85, 8.0),
        (wide * 0.98, 2.0),
        (wide * 1.03, -5.0),
        (wide * 0.92, length),
        (4.0, length - 0.4),
    ]
    right = np.array([(x, y, -6.0) for x, y in side])
    layer.ground(head.projected(curve(np.concatenate([right, (right * (-1, 1, 1))[::-1]]), 80))[:, :2], 0.5)
    places = layer.rng.uniform(-1, 1, 170)
    down = np.array([(0.95, 4.0), (1.0, -3.0), (0.93, length)])
    points = np.stack(
        [np.stack([places * wide * x, np.full(170, y), np.full(170, -6.0)], axis=1) for x, y in down], axis=1
    )
    lines = head.projected(curves(points, 14).reshape(-1, 3))[:, :2].reshape(170, 14, 2)
    layer.strands(_waved(lines, layer, np.abs(places)), layer.rng.uniform(0.4, 0.85, 170))


def _draw_bun(layer: HairLayer, head: PlacedHead) -> None:
    middle = head.skull_middle + np.array((0, head.skull_radii[1] + 1.0, -3))
    pixels, place = layer.canvas.pixels_per_cm, head.projected(middle[None])[0, :2]
    round_arc = np.linspace(0, 2 * np.pi, 40)
    layer.ground(
        place + 2.7 * pixels * np.stack([1.1 * np.cos(round_arc), 0.85 * np.sin(round_arc)], axis=1), 0.7
    )
    start, radius = layer.rng.uniform(0, 2 * np.pi, (110, 1)), layer.rng.uniform(0.5, 2.75, (110, 1))
    arc = start + np.linspace(0, 1.7, 10)
    rings = np.stack([1.1 * radius * np.cos(arc), 0.85 * radius * np.sin(arc)], axis=-1)
    layer.strands(place + pixels * rings, layer.rng.uniform(0.7, 1.5, 110))


def _draw_fringe(layer: HairLayer, head: PlacedHead, surface: HairSurface) -> None:
    """Hair combed down over the forehead, ending above the brows."""
    rng, count = layer.rng, 380
    brow = head.shape[[127, 70, 105, 107, 336, 334, 300, 356]].copy()
    brow[:, 1] += np.array([-0.4, 0.3, 0.75, 0.75, 0.75, 0.75, 0.3, -0.4])
    ends = curve(head.projected(brow + np.array((0, 0, 0.6)))[:, :2], 61)
    place = rng.uniform(0, 1, count)
    u = 0.06 + 0.88 * place
    root = surface.at(0.5 + 0.8 * (u - 0.5), rng.uniform(0.3, 0.85, count))
    middle = surface.at(u, np.full(count, 0.06))
    index = (np.clip(place + 0.05 * layer.identity.part, 0, 1) * 60).astype(int)
    tip = ends[index] + rng.normal(0, 0.2, (count, 2)) * (0.4, 1.0) * layer.canvas.pixels_per_cm
    lines = curves(np.stack([root, middle, tip], axis=1), 12)
    layer.strands(lines, locks(place, LOCKS, rng) * np.where(np.arange(count) < 120, 0.75, 1), 0.12)


def _draw_stray(layer: HairLayer, surface: HairSurface) -> None:
    """A few hairs that stand out from the outline."""
    rng, count = layer.rng, 70
    u, t = rng.uniform(0.05, 0.95, (count, 1)), np.linspace(0, 1, 6)
    side = rng.choice([-1, 1], (count, 1))
    height = rng.uniform(0.005, 0.07, (count, 1)) * np.sin(np.pi * np.linspace(0.1, 0.9, 6))
    lines = surface.at(u + side * 0.07 * t, 0.97 + height)
    layer.strands(lines, rng.uniform(0.6, 1.1, count), 0.03)


def _rings(middle: np.ndarray, radius: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """Return (K, 10, 2) arcs about middles (K, 2)."""
    arc = rng.uniform(0, 2 * np.pi, (len(middle), 1)) + np.linspace(0, 1, 10) * rng.uniform(
        2.5, 5.2, (len(middle), 1)
    )
    return middle[:, None] + (radius * pixels)[:, None, None] * np.stack([np.cos(arc), np.sin(arc)], axis=-1)


def _draw_halo_of_curls(layer: HairLayer, head: PlacedHead) -> None:
    """Curls that stand out from the head."""
    rng, identity, count = layer.rng, layer.identity, 300
    big = 0.5 + 1.7 * identity.hair_volume * (0.35 + 0.65 * identity.curliness)
    low = 0.35 + 0.55 * (identity.masculine < 0)
    angle = rng.uniform(-low, np.pi + low, count)
    reach = head.skull_radii[:2] + big * np.array([0.55, 0.65]) + rng.normal(0, 0.3, (count, 2))
    flat = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1) * np.column_stack(
        [reach, np.zeros(count)]
    )
    middle = head.projected(head.skull_middle + flat)[:, :2]
    round_arc = np.linspace(-low, np.pi + low, 50)
    whole = np.stack([np.cos(round_arc), np.sin(round_arc), 0 * round_arc], axis=1) * [
        *(head.skull_radii[:2] + 0.7 * big),
        0,
    ]
    layer.ground(head.projected(head.skull_middle + whole)[:, :2], 0.6)
    _curl(layer, middle, rng.uniform(0.3, 0.75, count))


def _draw_curls(layer: HairLayer, surface: HairSurface) -> None:
    """Curls over the head down to the hairline."""
    rng, count = layer.rng, 520
    middle = surface.at(rng.uniform(0, 1, count), rng.uniform(0.0, 1.05, count))
    _curl(layer, middle, rng.uniform(0.25, 0.7, count))


def _curl(layer: HairLayer, middle: np.ndarray, radius: np.ndarray) -> None:
    rng, pixels = layer.rng, layer.canvas.pixels_per_cm
    radius = radius * (1.2 - 0.5 * layer.identity.curliness)
    for place, size in zip(middle[::3], radius[::3], strict=True):
        turn = np.linspace(0, 2 * np.pi, 12)
        layer.ground(place + size * pixels * np.stack([np.cos(turn), np.sin(turn)], axis=1), 0.5)
    layer.strands(_rings(middle, radius, pixels, rng), rng.uniform(0.6, 1.4, len(middle)), 0.12)


def draw_beard(
    canvas: Canvas, field: HeadField, identity: MadeIdentity, shade: np.ndarray, rng: np.random.Generator
) -> None:
    """Paint stubble as a tint, other beards as a ground with strokes that hang down and outwards."""
    if identity.beard == "none":
        return
    density = beard_density(field.place, identity.beard) * field.mask
    colour = np.array(identity.hair, np.float32) * shade * (0.65 + 0.2 * (identity.grey > 0.3))
    soft = (0.35 if identity.beard == "stubble" else 0.2) * canvas.pixels_per_cm
    ground = cv2.GaussianBlur(density, (0, 0), soft)
    if identity.beard == "stubble":
        grain = np.clip(0.62 + 0.30 * smooth_noise(canvas.size, canvas.pixels_per_cm * 0.1, rng), 0, 1)
        canvas.blend(ground * grain, colour * 0.9 + 8, 0.42)
        return
    canvas.blend(ground, colour * 0.66, 0.84)
    strokes = _beard_strokes(canvas, field, density, BEARD_LENGTHS[identity.beard], rng)
    canvas.blend(canvas.strokes_mask(strokes[::2], 0.06), colour * 0.5, 0.7)
    canvas.blend(
        canvas.strokes_mask(strokes[1::2], 0.06),
        np.clip(colour * 1.3 + 14 + 50 * identity.grey, 0, 255),
        0.55,
    )


def _beard_strokes(
    canvas: Canvas, field: HeadField, density: np.ndarray, length: float, rng: np.random.Generator
) -> np.ndarray:
    """Return (K, 2, 2) hairs rooted where the density is high."""
    rows, columns = np.nonzero(density > 0.35)
    if not len(rows):
        return np.zeros((0, 2, 2))
    picks = rng.integers(0, len(rows), min(1100, len(rows) // 3))
    rows, columns = rows[picks], columns[picks]
    root = np.stack([columns, rows], axis=1).astype(np.float64)
    lean = 0.75 * field.place[rows, columns, 0] / 7.5 + rng.normal(0, 0.25, len(picks))
    reach = length * rng.uniform(0.4, 1.0, (len(picks), 1)) * canvas.pixels_per_cm
    tip = root + np.stack([lean, np.ones(len(picks))], axis=1) * reach
    return np.stack([root, tip], axis=1)
