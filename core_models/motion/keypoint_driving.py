"""A driver's motion on another face, in implicit keypoints: every mode of LivePortrait's composition.

`s` is the source (the portrait), `d` the driver, 0 the driver's rest. A FaceMotion holds the differences d - 0,
so relative driving adds it to the source, and absolute driving first puts the driver's rest back under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..face.opening_ratios import CLOSED_LIPS_RATIO, NARROWED_EYES_RATIO, OPEN_EYES_RATIO
from ..types import IMPLICIT_KEYPOINTS, FaceMotion, KeypointRest
from .kalman_smoothing import OBSERVATION_VARIANCE, kalman_smoothed
from .keypoint_geometry import (
    KEYPOINT_COUNT,
    KeypointReadings,
    head_angles,
    keypoint_rotation,
)
from .keypoint_retargeting import eye_delta, lip_delta, stitched
from .rotation import angles_from_quaternions, conjugate, multiply, power, quaternions_from_angles
from .track import map_frames

if TYPE_CHECKING:
    from ..rendering.liveportrait.retargeting import RetargetingNetworks

RELATIVE, ABSOLUTE = "relative", "absolute"
DRIVING_MODES = (RELATIVE, ABSOLUTE)
DRIVEN_REGIONS = ("all", "expression", "pose", "lips", "eyes")

EYE_POINTS = (11, 13, 15, 16, 18)
LIP_POINTS = (6, 12, 14, 17, 19, 20)
EXPRESSIVE_COMPONENTS: dict[int, str] = {
    **dict.fromkeys((1, 2, 6, *range(11, 21)), "xyz"),
    **{3: "y", 4: "y", 5: "z", 8: "z", 9: "yz"},
}
"""The components that absolute driving takes from the driver; the rest is rather who somebody is than what they do."""

_FLIP_Y = np.array([1.0, -1.0, 1.0])


@dataclass(frozen=True)
class DrivingParameters:
    """How a portrait follows a driver. The defaults are those of the released LivePortrait.

    mode: "relative" adds how the driver moves; "absolute" takes how the driver looks.
    region: what follows: "all", "expression", "pose", "lips" or "eyes".
    fit_expression: count the movement from the motion's first frame, times the ratio of the sizes that the portrait
        has there and by itself ("expression-friendly"); relative driving of a still picture by a film only. As in the
        release, a motion that begins at its rest is left as it is: there the two sizes are one.
    stitching: let the stitching network keep neck and shoulders where they were.
    eye_retargeting, lip_retargeting: open eyes or lips by the driver's opening ratios. In relative mode the rest
        of the driver's motion is dropped, as the release does, unless `keep_motion` says otherwise.
    keep_motion: add eye and lip retargeting to the relative motion instead of replacing it.
    close_lips: first close lips that the portrait shows apart; relative mode only.
    keep_source_eyes: of a source film, keep eyes as open as in its first frame.
    eye_opening: the opening ratio for `keep_source_eyes`; None takes it from the film's first frame.
    strength: multiplies the whole movement at the end, 0 or more.
    smoothing: observation variance of the Kalman smoother over a source film's composed motion.
    """

    mode: str = RELATIVE
    region: str = "all"
    fit_expression: bool = False
    stitching: bool = True
    eye_retargeting: bool = False
    lip_retargeting: bool = False
    keep_motion: bool = False
    close_lips: bool = False
    keep_source_eyes: bool = False
    eye_opening: float | None = None
    strength: float = 1.0
    smoothing: float = OBSERVATION_VARIANCE

    def __post_init__(self) -> None:
        for name, options in (("mode", DRIVING_MODES), ("region", DRIVEN_REGIONS)):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(options)}")
        optional = () if self.eye_opening is None else ("eye_opening",)
        for name in ("strength", "smoothing", *optional):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number of at least 0")

    @property
    def needs_networks(self) -> bool:
        """Whether the stitching, eye or lip network is used."""
        retargeting = self.eye_retargeting or self.lip_retargeting or self.keep_source_eyes
        return self.stitching or retargeting or (self.close_lips and self.mode == RELATIVE)

    @property
    def drops_motion(self) -> bool:
        """Whether eye or lip retargeting takes the place of the driver's motion."""
        retargets = self.eye_retargeting or self.lip_retargeting
        return retargets and self.mode == RELATIVE and not self.keep_motion

    @property
    def moves_pose(self) -> bool:
        return self.region in ("all", "pose")

    @property
    def moves_expression(self) -> bool:
        return self.region != "pose"


def drive_keypoints(
    source: KeypointReadings,
    motion: FaceMotion,
    parameters: DrivingParameters | None = None,
    networks: RetargetingNetworks | None = None,
) -> KeypointReadings:
    """Return the source as the driver moves it, N frames; its `keypoints` go to the warper.

    source: one reading (a picture), or one for each of the N frames of a film.
    motion: implicit keypoints, N frames; or one, a driving picture, which drives every frame of a film and whose
        head pose is not followed in relative mode.
    networks: for stitching and retargeting.
    Raises ValueError for motion of the other space, another number of source frames, absolute driving by a
    motion whose rest is not known, retargeting without the openings it needs, or networks that are missing.
    """
    parameters = parameters or DrivingParameters()
    _check(source, motion, parameters, networks)
    is_video, is_picture = source.frame_count > 1, motion.frame_count == 1
    if is_video and is_picture:
        motion = map_frames(motion, lambda values: np.repeat(values, source.frame_count, axis=0))
    elif not is_video:
        source = _repeated(source, motion.frame_count)
    composed = _composed(source, motion, parameters, is_video, is_picture)
    start, points = source.keypoints, composed.keypoints
    if parameters.fit_expression and parameters.mode == RELATIVE and not is_video and not is_picture:
        points = start + (points - points[:1]) * hull_ratio(start[0], points[0])
    points = _retargeted(start, points, source, motion, parameters, networks)
    posed = source if parameters.drops_motion else _part_of_the_way(source, composed, parameters.strength)
    return with_keypoints(posed, start + (points - start) * parameters.strength)


def _part_of_the_way(source: KeypointReadings, moved: KeypointReadings, share: float) -> KeypointReadings:
    """Return `moved` with `share` of its turn, shift and growth, so that the pose says how far the head moves."""
    if share == 1:
        return moved
    start, stop = (quaternions_from_angles(head_angles(one.rotation)) for one in (source, moved))
    between = multiply(start, power(multiply(conjugate(start), stop), share))
    return replace(
        moved,
        rotation=keypoint_rotation(angles_from_quaternions(between)),
        translation=source.translation + share * (moved.translation - source.translation),
        scale=source.scale * (moved.scale / source.scale) ** share,
    )


def require_drivable(motion: FaceMotion, parameters: DrivingParameters) -> None:
    """Raise ValueError, before anything is read or loaded, for a motion that cannot drive in this way."""
    motion.require_space(IMPLICIT_KEYPOINTS)
    if parameters.mode == ABSOLUTE and motion.rest is None:
        raise ValueError(
            "absolute driving needs to know the driver's own rest, which this motion does not (retargeted, made "
            "from speech, or joined from several drivers): use the relative mode"
        )
    from_driver = parameters.eye_retargeting or parameters.lip_retargeting
    if from_driver and motion.openings is None:
        raise ValueError(
            "eye and lip retargeting need the driver's opening ratios, which this motion does not hold: use Motion "
            "from Video, or switch them off"
        )


def _check(
    source: KeypointReadings,
    motion: FaceMotion,
    parameters: DrivingParameters,
    networks: RetargetingNetworks | None,
) -> None:
    require_drivable(motion, parameters)
    if motion.frame_count > 1 and source.frame_count not in (1, motion.frame_count):
        raise ValueError(
            f"the source film has {source.frame_count} frames and the motion {motion.frame_count}: resample or "
            "slice the motion to the film's rate and length"
        )
    if parameters.needs_networks and networks is None:
        raise ValueError("stitching and retargeting need LivePortrait's networks: connect Load LivePortrait")
    closes_lips = parameters.close_lips and parameters.mode == RELATIVE
    from_driver = parameters.eye_retargeting or parameters.lip_retargeting
    if (from_driver or closes_lips or parameters.keep_source_eyes) and source.openings is None:
        raise ValueError(
            "retargeting needs the portrait's own opening ratios, which its reading does not hold"
        )


def _repeated(source: KeypointReadings, count: int) -> KeypointReadings:
    return source.rows(np.zeros(count, int))


def _composed(
    source: KeypointReadings,
    motion: FaceMotion,
    parameters: DrivingParameters,
    is_video: bool,
    is_picture: bool,
) -> KeypointReadings:
    """Return the source with the driver's rotation, expression, scale and translation, before any network."""
    rotation, translation, scale = source.rotation, source.translation, source.scale
    relative = parameters.mode == RELATIVE
    if parameters.moves_pose:
        turned = keypoint_rotation(motion.rotation)
        rotation = turned @ source.rotation if relative else turned @ keypoint_rotation(motion.rest.rotation)
        moved = motion.translation.astype(np.float64) * _FLIP_Y
        if not relative:
            translation = moved + motion.rest.translation * _FLIP_Y
        elif not is_video:
            translation = source.translation + moved
        if is_video and not is_picture:
            rotation = kalman_smoothed(rotation, parameters.smoothing)
    if relative and parameters.region == "all" and not is_video:
        scale = source.scale * motion.scale
    expression = _composed_expression(source, motion, parameters, is_video, is_picture)
    translation = translation * np.array([1.0, 1.0, 0.0])
    return KeypointReadings(source.canonical, expression, rotation, translation, scale, source.openings)


def _composed_expression(
    source: KeypointReadings,
    motion: FaceMotion,
    parameters: DrivingParameters,
    is_video: bool,
    is_picture: bool,
) -> np.ndarray:
    """Return (N, 21, 3): the source's expression with the driven components replaced."""
    if not parameters.moves_expression:
        return source.expression
    offsets = motion.expression.astype(np.float64).reshape(-1, KEYPOINT_COUNT, 3)
    relative = parameters.mode == RELATIVE
    if relative:
        asked = source.expression + offsets
        if is_picture and not is_video and parameters.region == "eyes" and motion.rest is not None:
            asked = asked + motion.rest.expression.reshape(KEYPOINT_COUNT, 3)
    else:
        asked = motion.rest.expression.astype(np.float64).reshape(KEYPOINT_COUNT, 3) + offsets
    if is_video and not is_picture:
        asked = kalman_smoothed(asked, parameters.smoothing)
    driven = driven_components(parameters.region, everything=relative and not is_video)
    return np.where(driven, asked, source.expression)


def driven_components(region: str, everything: bool = False) -> np.ndarray:
    """Return (21, 3) bool: the components of the expression that a region drives.

    everything: "all" and "expression" then mean all of them, not only EXPRESSIVE_COMPONENTS.
    """
    mask = np.zeros((KEYPOINT_COUNT, 3), bool)
    if region in ("lips", "eyes"):
        mask[list(LIP_POINTS if region == "lips" else EYE_POINTS)] = True
    elif region in ("all", "expression"):
        mask[:] = everything
        for point, axes in EXPRESSIVE_COMPONENTS.items():
            mask[point, ["xyz".index(axis) for axis in axes]] = True
    return mask


def _retargeted(
    start: np.ndarray,
    points: np.ndarray,
    source: KeypointReadings,
    motion: FaceMotion,
    parameters: DrivingParameters,
    networks: RetargetingNetworks | None,
) -> np.ndarray:
    """Return keypoints after stitching and retargeting, in the order of the release (its Algorithm 1)."""
    if parameters.eye_retargeting or parameters.lip_retargeting:
        points = start if parameters.drops_motion else points
        if parameters.eye_retargeting:
            points = points + eye_delta(networks.eye, start, source.openings, motion.openings[:, 0])
        if parameters.lip_retargeting:
            points = points + lip_delta(networks.lip, start, source.openings, motion.openings[:, 2])
        return stitched(networks.stitching, start, points) if parameters.stitching else points
    if parameters.stitching:
        points = stitched(networks.stitching, start, points)
    if parameters.close_lips and parameters.mode == RELATIVE:
        apart = source.openings[:, 2] >= CLOSED_LIPS_RATIO
        delta = lip_delta(networks.lip, start, source.openings, np.zeros(len(start)))
        points = points + apart[:, None, None] * delta
    if parameters.keep_source_eyes:
        opening = parameters.eye_opening
        opening = kept_eye_opening(source.openings[0, :2]) if opening is None else opening
        points = points + eye_delta(networks.eye, start, source.openings, np.full(len(start), opening))
    return points


def kept_eye_opening(openings: np.ndarray) -> float:
    """Return the ratio at which a source film's eyes are kept: the mean of (2,) both eyes of its first frame.

    Eyes that begin closed are opened.
    """
    mean = float(np.mean(openings))
    return OPEN_EYES_RATIO if mean < NARROWED_EYES_RATIO else mean


def hull_ratio(source: np.ndarray, driven: np.ndarray) -> float:
    """Return sqrt(V(source)) / sqrt(V(driven)), V the volume of the convex hull of (21, 3) keypoints."""
    from scipy.spatial import ConvexHull

    volumes = [ConvexHull(np.asarray(points, np.float64)).volume for points in (source, driven)]
    return math.sqrt(volumes[0]) / math.sqrt(volumes[1])


def with_keypoints(readings: KeypointReadings, keypoints: np.ndarray) -> KeypointReadings:
    """Return readings whose keypoints are exactly (N, 21, 3) `keypoints`.

    Rotation (made a true one), scale and translation stay; the difference is carried by the expression.
    """
    rotation = nearest_rotation(readings.rotation)
    translation = readings.translation * np.array([1.0, 1.0, 0.0])
    local = (keypoints - translation[:, None, :]) / readings.scale[:, None, None]
    expression = local - readings.canonical @ rotation
    return KeypointReadings(
        readings.canonical, expression, rotation, translation, readings.scale, readings.openings
    )


def nearest_rotation(matrices: np.ndarray) -> np.ndarray:
    """Return (..., 3, 3) the rotations nearest to matrices that smoothing left a little deformed."""
    left, _, right = np.linalg.svd(matrices)
    handedness = np.linalg.det(left @ right)[..., None]
    left = np.concatenate([left[..., :2], left[..., 2:] * handedness[..., None]], axis=-1)
    return left @ right


def motion_between(source: KeypointReadings, moved: KeypointReadings, fps: float) -> FaceMotion:
    """Return `moved` as a motion away from `source`: what `moved_readings` turns back into `moved`.

    source: one reading, or as many as `moved` has.
    """
    turned = moved.rotation @ np.swapaxes(source.rotation, -1, -2)
    return FaceMotion(
        space=IMPLICIT_KEYPOINTS,
        fps=fps,
        expression=(moved.expression - source.expression).reshape(moved.frame_count, -1),
        rotation=head_angles(turned),
        translation=(moved.translation - source.translation) * _FLIP_Y,
        scale=moved.scale / source.scale,
        rest=keypoint_rest(source) if source.frame_count == 1 else None,
        openings=moved.openings,
    )


def keypoint_rest(readings: KeypointReadings, index: int = 0) -> KeypointRest:
    """Return frame `index` of the readings as the rest of a motion."""
    return KeypointRest(
        expression=readings.expression[index].reshape(-1),
        rotation=head_angles(readings.rotation[index]),
        translation=readings.translation[index] * _FLIP_Y,
        scale=float(readings.scale[index]),
    )


def moved_readings(source: KeypointReadings, motion: FaceMotion) -> KeypointReadings:
    """Return the source with a motion added, N frames: relative driving of everything, with no network."""
    motion.require_space(IMPLICIT_KEYPOINTS)
    source = source if source.frame_count == motion.frame_count else _repeated(source, motion.frame_count)
    offsets = motion.expression.astype(np.float64).reshape(-1, KEYPOINT_COUNT, 3)
    return KeypointReadings(
        canonical=source.canonical,
        expression=source.expression + offsets,
        rotation=keypoint_rotation(motion.rotation) @ source.rotation,
        translation=source.translation + motion.translation * _FLIP_Y,
        scale=source.scale * motion.scale,
        openings=motion.openings,
    )
