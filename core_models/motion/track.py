"""Motion tracks in time: another rate, a part, one after the other, smoother. Both motion spaces.

Frame i of a track is shown from i / fps to (i + 1) / fps and stands for the middle of that span. So tracks of
different rates are compared at the middles of their frames, and nothing drifts against the sound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ..audio.frame_clock import exact_rate, frame_count
from ..types import BLENDSHAPE_INDEX, BLENDSHAPES, FaceMotion
from .region_names import region_columns
from .rotation import angles_from_quaternions, quaternions_from_angles, slerp, without_sign_flips

CLOSED_APERTURE = 0.06
"""Lips count as closed where jawOpen - mouthClose is at most this."""
CLOSED_EYE = 0.6
"""Eyes count as closed where eyeBlink is at least this."""

_BLINKS = ("eyeBlinkLeft", "eyeBlinkRight")
_POSE_COLUMNS = 3 + 1 + 4
"""Translation, logarithm of scale, quaternion: see `_table`."""


def resample_motion(motion: FaceMotion, fps: float) -> FaceMotion:
    """Return the motion at another rate, frame_clock.frame_count(duration, fps) frames long.

    Expression and translation are interpolated linearly, rotations along the shortest arc (slerp), scale in
    its logarithm; the ends are held. To a lower rate, each frame is the average over the time it is shown, so
    that nothing aliases. An average would lose short closures, hence in the blendshape space:
    * where the lips close within a frame's time (jawOpen - mouthClose <= 0.06), but are open on average, the
      mouth and jaw are taken whole from the source frame in which they are closed most;
    * where an eye closes (eyeBlink >= 0.6), its blink is the highest within the frame's time.
    """
    source, wanted = exact_rate(motion.fps), exact_rate(fps)
    if source == wanted:
        return motion
    count = frame_count(float(motion.frame_count / source), fps)
    if wanted > source:
        positions = [float((index + Fraction(1, 2)) / wanted * source) - 0.5 for index in range(count)]
        return motion_at(motion, np.array(positions), fps)
    return _averaged(motion, source, wanted, count, fps)


def motion_for_duration(motion: FaceMotion, fps: float, duration: float) -> FaceMotion:
    """Return the motion at `fps`, with exactly the frames the clock gives a sound of `duration` seconds.

    It is cut at the end, or its last frame held.
    """
    resampled = resample_motion(motion, fps)
    rows = np.minimum(np.arange(frame_count(duration, fps)), resampled.frame_count - 1)
    return map_frames(resampled, lambda values: values[rows])


def motion_at(motion: FaceMotion, positions: np.ndarray, fps: float) -> FaceMotion:
    """Return the motion at fractional frame numbers, (N,), as a track of rate `fps`; the ends are held."""
    last = motion.frame_count - 1
    positions = np.clip(positions, 0, last)
    lower = np.minimum(positions.astype(int), max(last - 1, 0))
    return _blended(motion, motion, lower, np.minimum(lower + 1, last), positions - lower, fps)


def _blended(
    first: FaceMotion,
    second: FaceMotion,
    first_rows: np.ndarray,
    second_rows: np.ndarray,
    weight: np.ndarray,
    fps: float,
) -> FaceMotion:
    """Return (1 - weight) of first's rows and weight (N,) of second's, each field in its own way."""

    def mixed(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        share = weight.reshape(-1, *[1] * (start.ndim - 1))
        return start * (1 - share) + stop * share

    turned = slerp(
        quaternions_from_angles(first.rotation[first_rows]),
        quaternions_from_angles(second.rotation[second_rows]),
        weight,
    )
    known = first.openings is not None and second.openings is not None
    return replace(
        first,
        fps=fps,
        rest=first.rest if first.rest is second.rest else None,
        expression=mixed(first.expression[first_rows], second.expression[second_rows]),
        rotation=angles_from_quaternions(turned),
        translation=mixed(first.translation[first_rows], second.translation[second_rows]),
        scale=np.exp(mixed(np.log(first.scale[first_rows]), np.log(second.scale[second_rows]))),
        openings=mixed(first.openings[first_rows], second.openings[second_rows]) if known else None,
    )


def _averaged(motion: FaceMotion, source: Fraction, wanted: Fraction, count: int, fps: float) -> FaceMotion:
    borders = np.array([float(index / wanted * source) for index in range(count + 1)])
    borders = np.minimum(borders, motion.frame_count)
    rows = _table(motion)
    averaged = _span_means(rows, borders)
    if motion.space == BLENDSHAPES:
        averaged = _with_closures(rows, averaged, borders)
    return _from_table(averaged, motion, fps)


def _span_means(rows: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Return (N, C): the mean over [borders[i], borders[i + 1]) of the track, linear between frame middles."""
    return np.diff(_integral(rows, borders), axis=0) / np.diff(borders)[:, None]


def _integral(rows: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return (M, C): the integral up to each of `ends` (frame numbers) of the piecewise linear track.

    Row k is the value at k + 0.5; before the first and after the last the value is held.
    """
    last = len(rows) - 1
    from_first = ends - 0.5
    inside = np.clip(from_first, 0, last)
    lower = np.minimum(inside.astype(int), max(last - 1, 0))
    share = (inside - lower)[:, None]
    trapezoids = np.zeros(rows.shape)
    trapezoids[1:] = np.cumsum((rows[1:] + rows[:-1]) / 2, axis=0)
    slope = rows[np.minimum(lower + 1, last)] - rows[lower]
    held = np.where(from_first < 0, from_first, np.maximum(from_first - last, 0))[:, None]
    outer = np.where(from_first[:, None] < 0, rows[0], rows[last])
    return trapezoids[lower] + rows[lower] * share + slope * share**2 / 2 + held * outer


def _with_closures(rows: np.ndarray, averaged: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Put back the closures of lips and eyes that averaging opened. Blendshape space only."""
    result = averaged.copy()
    mouth = region_columns(("lips", "jaw"))
    aperture = mouth_aperture(rows)
    blinks = [BLENDSHAPE_INDEX[name] for name in _BLINKS]
    whole = np.rint(borders).astype(int)
    firsts = np.minimum(whole[:-1], len(rows) - 1)
    for index, (first, stop) in enumerate(zip(firsts, np.maximum(whole[1:], firsts + 1), strict=True)):
        span = slice(first, stop)
        closed = first + int(np.argmin(aperture[span]))
        if aperture[closed] <= CLOSED_APERTURE < mouth_aperture(averaged[index]):
            result[index, mouth] = rows[closed, mouth]
        highest = rows[span, blinks].max(axis=0)
        result[index, blinks] = np.where(highest >= CLOSED_EYE, highest, averaged[index, blinks])
    return result


def mouth_aperture(expression: np.ndarray) -> np.ndarray:
    """Return jawOpen - mouthClose, at least 0, of (..., >= 52) coefficients: how far the lips are apart."""
    open_by = expression[..., BLENDSHAPE_INDEX["jawOpen"]] - expression[..., BLENDSHAPE_INDEX["mouthClose"]]
    return np.maximum(open_by, 0)


def _table(motion: FaceMotion) -> np.ndarray:
    """Return (N, C) float64 rows that may be averaged: expression, translation, log scale, quaternion, openings.

    A track without openings has no columns for them.
    """
    quaternions = without_sign_flips(quaternions_from_angles(motion.rotation))
    log_scale = np.log(motion.scale.astype(np.float64))[:, None]
    openings = [] if motion.openings is None else [motion.openings]
    return np.concatenate([motion.expression, motion.translation, log_scale, quaternions, *openings], axis=1)


def _from_table(rows: np.ndarray, motion: FaceMotion, fps: float) -> FaceMotion:
    """Return `motion` with the rows of a table (of as many frames as there are rows) in place of its own."""
    starts = np.cumsum([motion.expression.shape[1], 3, 1, 4])
    expression, translation, log_scale, quaternions, openings = np.split(rows, starts, axis=1)
    return replace(
        motion,
        fps=fps,
        expression=expression,
        rotation=angles_from_quaternions(quaternions),
        translation=translation,
        scale=np.exp(log_scale[:, 0]),
        openings=None if motion.openings is None else openings,
    )


def slice_motion(motion: FaceMotion, start: float = 0.0, stop: float | None = None) -> FaceMotion:
    """Return the frames from `start` to `stop` seconds; None is the end.

    The first frame is the one nearest to `start`; there are frame_clock.frame_count(stop - start, fps) of
    them, fewer where the track ends earlier.
    Raises ValueError when the part begins after the end, before 0, or has no length.
    """
    end = motion.duration if stop is None else stop
    if not 0 <= start < end:
        raise ValueError(
            f"cannot slice from {start} s to {end} s: the start must be >= 0 and before the stop"
        )
    first = round(start * exact_rate(motion.fps))
    if first >= motion.frame_count:
        raise ValueError(f"cannot slice from {start} s: the motion lasts {motion.duration:.3f} s")
    return _rows(motion, slice(first, first + frame_count(end - start, motion.fps)))


def _rows(motion: FaceMotion, rows: slice) -> FaceMotion:
    return map_frames(motion, lambda values: values[rows])


def map_frames(motion: FaceMotion, change: Callable[[np.ndarray], np.ndarray]) -> FaceMotion:
    """Return the motion with `change` (which picks or repeats frames) made to each of its tracks."""
    names = ("expression", "rotation", "translation", "scale", "openings")
    tracks = {name: getattr(motion, name) for name in names}
    return replace(
        motion, **{name: None if values is None else change(values) for name, values in tracks.items()}
    )


def join_motion(motions: Sequence[FaceMotion], cross_fade: float = 0.0) -> FaceMotion:
    """Return the tracks one after the other, at the rate of the first; the others are resampled to it.

    cross_fade: seconds in which a track's end and the next one's beginning overlap and blend; the whole gets
    shorter by that much per seam. What the rest reads is kept when all tracks have one and the same.
    Raises ValueError for no tracks, different spaces, or a track too short for its fades.
    """
    if not motions:
        raise ValueError("there are no motions to join")
    spaces = sorted({motion.space for motion in motions})
    if len(spaces) > 1:
        raise ValueError(f"cannot join motions of different spaces: {', '.join(spaces)}; retarget them first")
    if cross_fade < 0:
        raise ValueError(f"cross_fade is {cross_fade} s, expected 0 or more")
    fps = motions[0].fps
    tracks = [resample_motion(motion, fps) for motion in motions]
    overlap = round(cross_fade * exact_rate(fps))
    joined = tracks[0]
    for index, track in enumerate(tracks[1:], start=1):
        if overlap > min(joined.frame_count, track.frame_count):
            raise ValueError(
                f"motion {index} or the one before it is shorter than the cross fade of {cross_fade} s"
            )
        joined = _concatenated(joined, track, overlap)
    return joined


def _concatenated(first: FaceMotion, second: FaceMotion, overlap: int) -> FaceMotion:
    """Return both tracks with `overlap` frames shared, blended along half a cosine."""
    ahead = first.frame_count - overlap
    rows = np.arange(ahead + second.frame_count)
    fade = (rows - ahead + 0.5) / max(overlap, 1) if overlap else (rows >= ahead).astype(float)
    weight = (1 - np.cos(np.pi * np.clip(fade, 0, 1))) / 2
    first_rows = np.minimum(rows, first.frame_count - 1)
    return _blended(first, second, first_rows, np.maximum(rows - ahead, 0), weight, first.fps)


def smooth_motion(
    motion: FaceMotion, passes: int = 0, sigma: float = 0.0, regions: Collection[str] | None = None
) -> FaceMotion:
    """Return the motion smoothed along time; the ends are repeated, lengths stay.

    passes: how often the kernel [1 2 1] / 4 is run. sigma: seconds, the width of a Gaussian. Both may act.
    regions: only these of MOTION_REGIONS are smoothed. None smooths everything except blinks (of implicit
    keypoints: the eyes), which last only a few frames; name "eyes" to smooth those too.
    """
    if passes < 0 or sigma < 0:
        raise ValueError(f"passes is {passes} and sigma is {sigma}, expected 0 or more")
    rows = _table(motion)
    smooth = smoothed_rows(rows, passes, sigma * motion.fps)
    keep = _columns_to_keep(motion, regions)
    smooth[:, keep] = rows[:, keep]
    return _from_table(smooth, motion, motion.fps)


def smoothed_rows(rows: np.ndarray, passes: int, sigma: float = 0.0) -> np.ndarray:
    """Return (N, ...) after `passes` of [1 2 1] / 4 and a Gaussian of `sigma` frames; the ends are repeated."""
    smooth = np.array(rows, np.float64)
    for _ in range(passes):
        smooth = _convolved(smooth, np.array([0.25, 0.5, 0.25]))
    if sigma > 0:
        reach = max(1, int(np.ceil(3 * sigma)))
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        smooth = _convolved(smooth, kernel / kernel.sum())
    return smooth


def _convolved(rows: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    reach = len(kernel) // 2
    padded = np.pad(rows, ((reach, reach), *[(0, 0)] * (rows.ndim - 1)), mode="edge")
    return sum(weight * padded[index : index + len(rows)] for index, weight in enumerate(kernel))


def _columns_to_keep(motion: FaceMotion, regions: Collection[str] | None) -> list[int]:
    """Return the columns of `_table` that smoothing leaves alone; opening ratios are always among them."""
    size = motion.expression.shape[1]
    movement = size + _POSE_COLUMNS
    openings = list(range(movement, movement + (0 if motion.openings is None else motion.openings.shape[1])))
    if regions is None:
        return [*_blinking_columns(motion.space), *openings]
    smoothed = set(region_columns(regions, motion.space))
    if "pose" in regions:
        smoothed |= set(range(size, movement))
    return [*(index for index in range(movement) if index not in smoothed), *openings]


def _blinking_columns(space: str) -> list[int]:
    if space == BLENDSHAPES:
        return [BLENDSHAPE_INDEX[name] for name in _BLINKS]
    return region_columns(["eyes"], space)
