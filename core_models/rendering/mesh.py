"""The mesh renderer: a photo, painting or statue talks by warping it, with no weights.

The 478-point face mesh is moved by blendshapes and head pose in the face's own shape, and the full-resolution
photo is resampled through it. What is behind the surface (eyeballs, the inside of the mouth) is laid over as
layers of its own. Everything outside the moving region stays the photo, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..face.pose import canonical_shape, rotation_matrix
from ..face.topology import (
    EYE_OUTER_CORNER_LEFT,
    EYE_OUTER_CORNER_RIGHT,
    FACE_OVAL,
    LIPS_LOWER_INNER,
    LIPS_UPPER,
    LIPS_UPPER_INNER,
    MESH_POINT_COUNT,
    canonical_face,
)
from ..types import BLENDSHAPES, LANDMARK_COUNT, FaceMotion, Portrait, ProgressCallback
from . import head_turn, warp
from .bare_lips import draw_bare_lips, draw_lip_seam, make_bare_lips
from .composition import TargetExpression, compose_expression
from .curves import fit_affine
from .displacement import displacement_basis, smoothstep
from .eyes import GAZE_ACROSS, GAZE_ALONG, Eyeball, draw_eye, make_eyeball
from .folds import draw_folds
from .lids import (
    EYES,
    LID_ORIENTATION,
    MARGIN_COUNT,
    find_margins,
    lid_strip_triangles,
    margin_triangles,
    margin_vertices,
    move_lids,
)
from .lips import (
    CLOSED_OPENING,
    CLOSED_OVERLAP,
    collapse_seam,
    lip_gap,
    mouth_opening,
    mouth_width,
    settle_lips,
)
from .mouth_interior import draw_mouth_interior, make_mouth_interior, skull_frame

INTERPOLATIONS = ("cubic", "linear")
STRENGTH_RANGE = (0.0, 2.0)
_INNER_LIPS = [*LIPS_UPPER_INNER, *LIPS_LOWER_INNER]
OWN_MOUTH_FADE = 0.03
"""Motion of the inner lips, in mouth widths, at which an open photo's mouth is fully redrawn."""
EYEBALL_TURN = (0.5, 4.0)
"""Degrees of head turn over which the eyeballs become layers of their own."""
_FLIP_Y = np.array([1.0, -1.0], np.float32)


@dataclass(frozen=True)
class MeshRendererParameters:
    """How the mesh renderer draws.

    interpolation: "cubic" (sharp) or "linear" (slightly softer, about a tenth faster, less memory).
    expression_strength: multiplies every coefficient but the lids' and the gaze's, 0..2.
    head_strength: multiplies head rotation, translation and size change, 0..2.
    """

    interpolation: str = "cubic"
    expression_strength: float = 1.0
    head_strength: float = 1.0

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation is {self.interpolation!r}, expected one of {', '.join(INTERPOLATIONS)}"
            )
        low, high = STRENGTH_RANGE
        for name in ("expression_strength", "head_strength"):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}, expected {low:g} to {high:g}")


class MeshRenderer:
    """Renders motion onto one portrait. What depends on the photo alone is worked out once, here."""

    def __init__(self, portrait: Portrait, parameters: MeshRendererParameters | None = None) -> None:
        """Prepare a portrait.

        Raises ValueError when its head is turned more than 45 degrees or its face lies outside the picture.
        """
        head_turn.check_source_yaw(float(portrait.pose.rotation[1]))
        self.portrait = portrait
        self.parameters = parameters or MeshRendererParameters()
        shape = canonical_shape(portrait.landmarks, portrait.pose).astype(np.float32)
        self._opening = mouth_opening(shape)
        self._is_open = self._opening > CLOSED_OPENING
        if not self._is_open:
            shape = collapse_seam(shape)
        rotation = rotation_matrix(portrait.pose.rotation)
        rings = head_turn.ring_layout(shape, rotation)
        self._margins = find_margins(portrait.frame, portrait.landmarks[:, :2])
        margins = margin_vertices(shape, self._margins)
        self._shape = np.concatenate([shape, rings.vertices, margins])
        rigid = [np.ones(len(shape)), rings.rigid_weights, np.ones(len(margins))]
        self._rigid_weights = np.concatenate(rigid).astype(np.float32)[:, None]
        self._basis = _whole_basis(rings)
        self._to_picture = (portrait.pose.scale * rotation).astype(np.float32)
        corners = shape[[EYE_OUTER_CORNER_LEFT, EYE_OUTER_CORNER_RIGHT]]
        self._face_unit = float(np.linalg.norm(corners[0] - corners[1]))
        self._lip_depth = float(shape[_INNER_LIPS, 2].mean())
        self._prepare_picture()

    def _prepare_picture(self) -> None:
        still = head_turn.HeadMove(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), 1.0)
        points, _ = self._projected(self._shape, still)
        face = points[list(FACE_OVAL)]
        width, height = np.ptp(face, axis=0)
        outline = points[LANDMARK_COUNT:][head_turn.LAST_RING]
        self._grid = warp.make_grid(outline, float(width), float(height), self.portrait.size)
        cubic = self.parameters.interpolation == "cubic"
        self._texture = warp.make_texture(self.portrait.frame, self._grid, cubic)
        self._mesh = _make_mesh(points)
        reach = warp.GUARD_SHARE * float(height)
        self._guard = warp.edge_guard(points[:, 0], points[:, 1], self.portrait.size, reach)[:, None]
        picture = self.portrait.frame
        self._eyeballs = [make_eyeball(picture, points, eye) for eye in EYES]
        self._mouth = make_mouth_interior(
            picture, points, self._shape, self._skull_frame(still), self._is_open
        )
        self._bare_lips = make_bare_lips(picture, points) if self._is_open else None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.portrait.size

    @property
    def moving_region(self) -> np.ndarray:
        """(H, W) bool: the only pixels that may ever differ from the photo."""
        width, height = self.portrait.size
        region = np.zeros((height, width), bool)
        region[self._grid.region_slices] = self._grid.moving
        return region

    def render(self, motion: FaceMotion, index: int) -> np.ndarray:
        """Return frame `index` of a blendshape motion as a new (H, W, 3) uint8 RGB picture.

        A frame in which nothing moves is the photo. Raises ValueError for motion in another space and
        IndexError for a frame the motion does not have.
        """
        motion.require_space(BLENDSHAPES)
        if not -motion.frame_count <= index < motion.frame_count:
            raise IndexError(f"frame {index} of a motion of {motion.frame_count} frames")
        target = self._target_expression(motion.expression[index])
        head = self._head_move(motion, index)
        output = np.array(self.portrait.frame)
        if not (head.is_still and target.is_still):
            self._draw(output, target, head)
        return output

    def frames(self, motion: FaceMotion, progress: ProgressCallback | None = None) -> Iterator[np.ndarray]:
        """Yield every frame of a motion as (H, W, 3) uint8 RGB, one at a time.

        `progress` is called before each frame with (done, total) and may raise to cancel.
        """
        motion.require_space(BLENDSHAPES)
        for index in range(motion.frame_count):
            if progress is not None:
                progress(index, motion.frame_count)
            yield self.render(motion, index)
        if progress is not None:
            progress(motion.frame_count, motion.frame_count)

    def landmarks(self, motion: FaceMotion) -> np.ndarray:
        """Return where every frame's landmarks are, (N, 478, 3) float32: pixels of the picture as in `Portrait`.

        They lie where `frames` draws them: lids on lids, lips on lips, irises where the gaze moves them.
        Raises ValueError for motion in another space.
        """
        motion.require_space(BLENDSHAPES)
        return np.stack([self._frame_landmarks(motion, index) for index in range(motion.frame_count)])

    def _frame_landmarks(self, motion: FaceMotion, index: int) -> np.ndarray:
        target = self._target_expression(motion.expression[index])
        head = self._head_move(motion, index)
        points, depth = self._projected(self._moved_shape(target), head)
        rigid, _ = self._projected(self._shape, head)
        landmarks = np.empty((LANDMARK_COUNT, 3), np.float32)
        landmarks[:, :2] = (self._on_canvas(points) + self._grid.origin)[:LANDMARK_COUNT]
        landmarks[:, 2] = -self.portrait.pose.scale * depth[:LANDMARK_COUNT]
        for eyeball in self._eyeballs:
            if eyeball is not None:
                turned = fit_affine(eyeball.contour, rigid[eyeball.indices.contour])[:, :2]
                landmarks[list(eyeball.indices.iris), :2] += turned @ _iris_shift(eyeball, target.gaze)
        return landmarks

    def _target_expression(self, asked: np.ndarray) -> TargetExpression:
        return compose_expression(
            asked,
            self.portrait.blendshapes,
            self._opening,
            CLOSED_OPENING,
            self.parameters.expression_strength,
        )

    def _head_move(self, motion: FaceMotion, index: int) -> head_turn.HeadMove:
        strength = self.parameters.head_strength
        return head_turn.limited_head_move(
            motion.rotation[index] * strength,
            motion.translation[index] * strength,
            float(motion.scale[index]) ** strength,
            float(self.portrait.pose.rotation[1]),
            self._face_unit,
        )

    def _draw(self, output: np.ndarray, target: TargetExpression, head: head_turn.HeadMove) -> None:
        shape = self._moved_shape(target)
        points, depth = self._projected(shape, head)
        displacement = warp.source_displacement(self._mesh, points, depth, self._grid)
        source_map = warp.enlarged(displacement, self._grid, self._texture)
        canvas = output[self._grid.region_slices]
        warp.resample(self._texture, source_map, self._grid, canvas)
        on_canvas = self._on_canvas(points)
        draw_folds(canvas, on_canvas, target.change, self.portrait.pose.scale)
        self._draw_eyes(canvas, on_canvas, target, head)
        self._draw_mouth(canvas, on_canvas, source_map, shape, target, head)

    def _on_canvas(self, points: np.ndarray) -> np.ndarray:
        """Return moved vertices (N, 2) in canvas pixels, held back at the picture's edges as the warp is."""
        held = self._mesh.source + self._guard * (points - self._mesh.source)
        return held - self._grid.origin

    def _moved_shape(self, target: TargetExpression) -> np.ndarray:
        """Return the face and its rings, (N, 3) canonical centimetres, showing an expression."""
        moved = self._shape + np.tensordot(target.change, self._basis, axes=1)
        move_lids(moved, target, self._margins)
        settle_lips(moved, target.lip_seal, CLOSED_OVERLAP if self._is_open else 0.0)
        return moved

    def _projected(self, shape: np.ndarray, head: head_turn.HeadMove) -> tuple[np.ndarray, np.ndarray]:
        """Return where vertices land under a head move: (N, 2) picture pixels, (N,) depth in centimetres."""
        weights = self._rigid_weights if len(shape) == len(self._rigid_weights) else 1.0
        placed = shape + weights * (head.applied(shape) - shape)
        pixels = placed @ self._to_picture.T + self.portrait.pose.translation
        pixels = pixels + weights * (self.portrait.pose.scale * head.translation)
        return pixels[:, :2] * _FLIP_Y, pixels[:, 2] / self.portrait.pose.scale

    def _skull_frame(self, head: head_turn.HeadMove) -> np.ndarray:
        """Return the affine (2, 3) from canonical (x, y) at the depth of the lips to picture pixels."""
        corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
        corners[:, 2] = self._lip_depth
        return skull_frame(*self._projected(corners, head)[0])

    def _draw_eyes(
        self, canvas: np.ndarray, points: np.ndarray, target: TargetExpression, head: head_turn.HeadMove
    ) -> None:
        rigid = self._on_canvas(self._projected(self._shape, head)[0])
        for side, eyeball in enumerate(self._eyeballs):
            if eyeball is not None:
                draw_eye(
                    canvas,
                    eyeball,
                    points,
                    rigid,
                    target,
                    side,
                    self.portrait.pose.scale,
                    self._grid.softness,
                    float(smoothstep(*EYEBALL_TURN, head.angle)),
                    self._mouth.grain,
                )

    def _draw_mouth(
        self,
        canvas: np.ndarray,
        points: np.ndarray,
        source_map: np.ndarray,
        shape: np.ndarray,
        target: TargetExpression,
        head: head_turn.HeadMove,
    ) -> None:
        rest = self._mouth.rest_frame
        frame = rest + self._guard[LIPS_UPPER_INNER[5]] * (self._skull_frame(head) - rest)
        frame[:, 2] -= self._grid.origin
        fade = self._own_mouth_fade(shape) if self._is_open else 1.0
        if self._bare_lips is not None:
            draw_bare_lips(canvas, self._bare_lips, points, source_map, self._texture, fade)
        draw_mouth_interior(canvas, self._mouth, points, shape, frame, fade, target.lip_rounding)
        if self._is_open:
            draw_lip_seam(
                canvas, self._mouth.colours.flesh, points, lip_gap(shape) / mouth_width(shape), fade
            )

    def _own_mouth_fade(self, shape: np.ndarray) -> float:
        """Return 0..1: how much of an open photo's mouth is redrawn; 0 where the photo itself is exact."""
        moved = np.abs(shape[_INNER_LIPS] - self._shape[_INNER_LIPS]).max() / mouth_width(self._shape)
        return float(smoothstep(0.0, OWN_MOUTH_FADE, moved))


def _iris_shift(eyeball: Eyeball, gaze: np.ndarray) -> np.ndarray:
    """Return (2,) picture pixels by which a gaze moves the iris of the head at rest."""
    return eyeball.width * (GAZE_ACROSS * gaze[0] * eyeball.across - GAZE_ALONG * gaze[1] * eyeball.down)


def _whole_basis(rings: head_turn.RingLayout) -> np.ndarray:
    """Return (52, N, 3) float32: the basis over face, irises (still), rings and lid margins (set later)."""
    face = displacement_basis()
    irises = np.zeros((len(face), LANDMARK_COUNT - MESH_POINT_COUNT, 3), np.float32)
    margins = np.zeros((len(face), MARGIN_COUNT, 3), np.float32)
    return np.concatenate([face, irises, head_turn.ring_basis(face, rings), margins], axis=1)


def _make_mesh(points: np.ndarray) -> warp.TriangleMesh:
    """Return the triangles of face, rings and lids that can be drawn, where they lie, and their layers."""
    canonical = canonical_face()
    face = canonical.triangles[~lid_strip_triangles(canonical.triangles)]
    orientation = _orientation(canonical.vertices, face)
    rings = head_turn.ring_triangles(LANDMARK_COUNT)
    lids = margin_triangles(len(points) - MARGIN_COUNT)
    triangles = np.concatenate([face, rings, lids])
    outward = [np.full(len(rings), head_turn.RING_ORIENTATION), np.full(len(lids), LID_ORIENTATION)]
    orientation = np.concatenate([orientation, *outward]).astype(np.float32)
    drawable = warp.drawable_in_photo(warp.signed_areas(points, triangles), orientation)
    layers = np.concatenate([_layers(face), np.ones(len(rings)), np.full(len(lids), 2)])
    return warp.TriangleMesh(
        triangles=triangles[drawable],
        orientation=orientation[drawable],
        layer=layers[drawable].astype(np.float32),
        source=points.astype(np.float32),
    )


def _orientation(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return (T,) the sign of each canonical triangle's area when the face looks at the camera, y down."""
    return np.sign(warp.signed_areas(vertices[:, :2] * _FLIP_Y, triangles))


def _layers(triangles: np.ndarray) -> np.ndarray:
    """Return (T,) float32: 0 for eye and mouth interiors, 2 for upper lids and upper lip, 1 for all else."""
    layers = np.ones(len(triangles), np.float32)
    upper_lip = [index for row in LIPS_UPPER for index in row]
    lids = [[*eye.upper, *eye.upper_ring_1, *eye.upper_ring_2] for eye in EYES]
    for members in (upper_lip, *lids):
        layers[np.isin(triangles, members).all(axis=1)] = 2
    for members in (_INNER_LIPS, *(eye.contour for eye in EYES)):
        layers[np.isin(triangles, members).all(axis=1)] = 0
    return layers
