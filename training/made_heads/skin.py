"""Skin and light: the head as a smooth height field, lit, with the colours skin has in its several parts."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.interpolate import CloughTocher2DInterpolator

from ...core_models.face.topology import FACE_OVAL, MESH_POINT_COUNT, canonical_face
from .canvas import ramp, shape_mask, smooth_noise
from .head_shape import PlacedHead
from .identity import MadeIdentity

FIELD_SIZE = 144
"""Samples across the height field, which is enlarged to the canvas."""
SMOOTHING = (0.22, 0.9)
"""Centimetres by which the height field is smoothed: on the face's features, and towards the head's sides and top."""
LEAST_FACING = 0.2
"""Cosine between a surface and the camera below which its points are left out: there the mesh folds over itself."""
SKULL_GAP = 1.2
"""Centimetres between the face's oval and the first points of the skull."""
WRAP = np.array([0.50, 0.34, 0.26], np.float32)
"""How far light creeps round skin in red, green and blue: shadows on skin are red."""


@dataclass(frozen=True)
class Light:
    """direction: (3,) unit, to the light (x right, y up, z to the camera). key, ambient: (3,) linear."""

    direction: np.ndarray
    key: np.ndarray
    ambient: np.ndarray


@dataclass(frozen=True)
class HeadField:
    """What each pixel shows of the head.

    mask: (S, S) 0..1, head without ears and neck. outline: (N, 2) pixels, its silhouette. normal: (S, S, 3) unit, x
    right, y up, z to the camera. hollow: (S, S) centimetres a place lies below its surroundings. place: (S, S, 2)
    canonical x and y of the surface there.
    """

    mask: np.ndarray
    outline: np.ndarray
    normal: np.ndarray
    hollow: np.ndarray
    place: np.ndarray


def light_of(identity: MadeIdentity) -> Light:
    """Return the light an identity is seen in; a mean surface looks as bright whatever its direction."""
    azimuth, elevation = np.radians(identity.light)
    direction = [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
    warm = 1 + 0.09 * identity.light_warmth * np.array([1, 0.1, -1])
    cool = 1 - 0.06 * identity.light_warmth * np.array([1, 0.0, -1])
    contrast = 0.35 + 0.5 * identity.light_contrast
    key, ambient = 1.16 * contrast * warm, (0.96 - 0.64 * contrast) * cool
    return Light(*(np.asarray(part, np.float32) for part in (direction, key, ambient)))


def head_field(head: PlacedHead) -> HeadField:
    """Return the height field of a head, at the size of its picture."""
    face = head.landmarks[:MESH_POINT_COUNT]
    skull, coordinates = _skull_points(head, face)
    seen = _facing(face)
    known = np.concatenate([face[seen], skull])
    outline = cv2.convexHull(np.concatenate([face, skull])[:, :2].astype(np.float32))[:, 0]
    rim, rim_depth = _rim(outline, known, head.pixels_per_cm)
    points = np.concatenate([known[:, :2], rim])
    depth = np.concatenate([known[:, 2], rim_depth]) / head.pixels_per_cm
    mean = np.concatenate([canonical_face().vertices[seen, :2], coordinates])
    nearest = np.argmin(np.linalg.norm(rim[:, None] - known[None, :, :2], axis=2), axis=1)
    values = np.column_stack([-depth, np.concatenate([mean, mean[nearest]])])
    step = head.size / FIELD_SIZE
    samples = (np.arange(FIELD_SIZE) + 0.5) * step - 0.5
    grid = np.stack(np.meshgrid(samples, samples), axis=-1).reshape(-1, 2)
    inside = np.abs(grid - points.mean(axis=0)).max(axis=1) < 14 * head.pixels_per_cm
    field = np.zeros((len(grid), 3), np.float32)
    spline = CloughTocher2DInterpolator(points, values, tol=1e-3, maxiter=40)
    field[inside] = np.nan_to_num(spline(grid[inside]))
    return _finished(field.reshape(FIELD_SIZE, FIELD_SIZE, 3), outline, step, head)


def _finished(field: np.ndarray, outline: np.ndarray, step: float, head: PlacedHead) -> HeadField:
    cell = step / head.pixels_per_cm
    fine, broad = (cv2.GaussianBlur(field[..., 0], (0, 0), sigma / cell) for sigma in SMOOTHING)
    x, y = np.abs(field[..., 1]), field[..., 2]
    edge = ramp(4.6, 6.2, np.hypot(x, 1.0 * np.maximum(y - 4.2, 0)))
    height = fine + (broad - fine) * cv2.GaussianBlur(edge.astype(np.float32), (0, 0), 0.4 / cell)
    down, right = np.gradient(height, cell)
    normal = np.stack([-right, down, np.ones_like(height)], axis=-1)
    normal /= np.linalg.norm(normal, axis=2, keepdims=True)
    hollow = cv2.GaussianBlur(height, (0, 0), 1.0 / cell) - height
    size = (head.size, head.size)
    return HeadField(
        mask=shape_mask(outline, head.size, 0.05 * head.pixels_per_cm),
        outline=outline,
        normal=cv2.resize(normal, size, interpolation=cv2.INTER_LINEAR),
        hollow=cv2.resize(hollow, size, interpolation=cv2.INTER_LINEAR),
        place=cv2.resize(field[..., 1:], size, interpolation=cv2.INTER_LINEAR),
    )


def _facing(face: np.ndarray) -> np.ndarray:
    """Return (468,) bool: which points of the mesh (468, 3) in pixels lie on surface that the camera sees."""
    triangles = canonical_face().triangles
    first, second, third = (face[triangles[:, corner]] for corner in range(3))
    normals = np.cross(second - first, third - first)
    total = np.zeros((MESH_POINT_COUNT, 3))
    for corner in range(3):
        np.add.at(total, triangles[:, corner], normals)
    forward = total[:, 2] / np.maximum(np.linalg.norm(total, axis=1), 1e-9)
    return forward * np.sign(forward.sum()) > LEAST_FACING


def _skull_points(head: PlacedHead, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the skull above the face: (K, 3) pixels and their (K, 2) canonical places."""
    longitude, latitude = np.meshgrid(
        np.radians(np.linspace(-90, 90, 19)), np.radians(np.linspace(-18, 90, 13))
    )
    directions = [
        np.sin(longitude) * np.cos(latitude),
        np.sin(latitude),
        np.cos(longitude) * np.cos(latitude),
    ]
    points = head.skull_middle + np.stack(directions, axis=-1).reshape(-1, 3) * head.skull_radii
    forward = np.stack(directions, axis=-1).reshape(-1, 3) / head.skull_radii @ head.rotation[2]
    points = points[forward > LEAST_FACING / head.skull_radii[2]]
    pixels = head.projected(points)
    oval = face[list(FACE_OVAL), :2].astype(np.float32)
    outside = [-cv2.pointPolygonTest(oval, (float(x), float(y)), True) for x, y in pixels[:, :2]]
    kept = np.array(outside) > SKULL_GAP * head.pixels_per_cm
    return pixels[kept], points[kept, :2]


def _rim(outline: np.ndarray, known: np.ndarray, pixels_per_cm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points (K, 2) a little outside the silhouette and their depth: there the surface turns away."""
    ring = outline[:: max(1, len(outline) // 40)]
    nearest = np.argmin(np.linalg.norm(ring[:, None] - known[None, :, :2], axis=2), axis=1)
    middle = outline.mean(axis=0)
    outward = ring - middle
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    return ring + 1.6 * pixels_per_cm * outward, known[nearest, 2] + 5.0 * pixels_per_cm


def lit(albedo: np.ndarray, normal: np.ndarray, hollow: np.ndarray, light: Light, shine: float) -> np.ndarray:
    """Return lit skin (..., 3) sRGB 0..255 from its colour (..., 3) sRGB 0..255 and its unit normals."""
    facing = normal @ light.direction
    wrapped = np.clip((facing[..., None] + WRAP) / (1 + WRAP), 0, None).astype(np.float32)
    shelter = np.exp(-0.9 * np.clip(hollow, -0.1, 1.2)).astype(np.float32)
    sky = 0.78 + 0.22 * normal[..., 1]
    radiance = light.key * wrapped * (0.5 + 0.5 * shelter[..., None])
    radiance = radiance + light.ambient * (sky * shelter)[..., None]
    half = light.direction + np.array([0, 0, 1], np.float32)
    half = half / np.linalg.norm(half)
    gloss = np.clip(normal @ half, 0, 1) ** 2
    broad = gloss**2 * gloss**2 * gloss**2
    gloss = (0.55 * broad + 0.75 * broad**2 * broad**2) * np.float32(shine * 0.085)
    # light adds up in linear colour, here taken as the square of sRGB
    linear = np.square(albedo / np.float32(255)) * radiance + gloss[..., None] * light.key
    return 255 * np.sqrt(np.clip(linear, 0, 1))


def skin_colour(field: HeadField, identity: MadeIdentity, rng: np.random.Generator) -> np.ndarray:
    """Return the head's unlit skin (S, S, 3): redder cheeks, nose and ears, darker eye sockets, spots, stubble."""
    size = len(field.mask)
    x, y = field.place[..., 0], field.place[..., 1]
    across = np.abs(x)
    base = np.array(identity.skin, np.float32)
    depth = 1 - 0.5 * float(base.mean()) / 235
    cheeks = _spot(across - 4.3, y + 1.0, 1.7, 1.4)
    flush = cheeks + 0.9 * _spot(x, y + 1.2, 1.2, 0.9) + 0.4 * _spot(x, y + 7.8, 1.5, 0.9)
    mottle = 0.02 * smooth_noise(size, size / 14, rng) + 0.013 * smooth_noise(size, size / 50, rng)
    tint = np.ones((size, size, 3), np.float32)
    tint -= (identity.redness * 0.75 * flush)[..., None] * np.array([0.02, 0.17, 0.16], np.float32)
    tint -= ((0.35 + 0.65 * identity.eye_bags) * _spot(across - 2.9, y - 1.5, 1.2, 0.5))[
        ..., None
    ] * np.array([0.14, 0.17, 0.13], np.float32)
    tint -= (0.05 * depth * _spot(across - 3.1, y - 3.3, 1.3, 0.8))[..., None]
    tint += (identity.mottling * mottle)[..., None] * np.array([0.7, 1.0, 1.0], np.float32)
    if identity.freckles > 0:
        tint -= (identity.freckles * _freckles(field, rng))[..., None] * np.array(
            [0.18, 0.30, 0.38], np.float32
        )
    return np.clip(base * tint, 0, 255)


def _freckles(field: HeadField, rng: np.random.Generator) -> np.ndarray:
    size = len(field.mask)
    spots = np.clip(smooth_noise(size, size / 110, rng) - 1.0, 0, 1)
    x, y = field.place[..., 0], field.place[..., 1]
    return spots * (_spot(np.abs(x) - 2.5, y + 0.3, 2.6, 1.5) + 0.3 * _spot(x, y - 6, 4, 1.5))


def _spot(x: np.ndarray, y: np.ndarray, wide: float, high: float) -> np.ndarray:
    """Return 1 at the origin, falling as a Gaussian of these spreads."""
    return np.exp(-0.5 * ((x / wide) ** 2 + (y / high) ** 2)).astype(np.float32)


def beard_density(place: np.ndarray, kind: str) -> np.ndarray:
    """Return 0..1: how thick a beard of a kind of BEARDS grows at canonical places (..., 2)."""
    x, y = np.abs(place[..., 0]), place[..., 1]
    moustache = ramp(-2.55, -2.85, y) * ramp(-4.9, -4.2, y) * ramp(3.3, 2.5, x)
    edge = np.interp(x, (0, 2.6, 3.8, 5.2, 6.4, 7.6), (-6.0, -5.4, -4.9, -3.9, -2.0, 1.2))
    jaw = ramp(0.35, -0.5, y - edge)
    drop = ramp(3.4, 2.6, x) * ramp(-2.6, -3.4, y) * ramp(2.2, 2.8, x)
    patch = ramp(0.9, 0.4, x) * ramp(-5.5, -5.8, y)
    goatee = ramp(2.9, 2.2, x) * ramp(-6.0, -6.5, y)
    lips = 1 - ramp(1.25, 0.95, np.hypot(x / 2.5, (y + 4.38) / 0.98))
    density = {
        "none": 0 * x,
        "moustache": moustache,
        "goatee": np.maximum.reduce([moustache, drop, goatee, patch]),
    }.get(kind, np.maximum.reduce([0.9 * moustache, jaw, drop, patch]))
    return (density * lips).astype(np.float32)
