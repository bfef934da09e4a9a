"""Clips for a small FantasyTalking: made heads at 64 pixels that move, each clip as much as it was drawn to.

Head turns and head shifts are drawn apart from each other and from the sound, so that a coefficient for each can be
learned. Sound is heard beyond both ends of a clip, so that audio windows at its ends hold what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..core_models.audio.mel import level_gain, mel_decibels
from ..core_models.face.pose import fit_head_pose
from ..core_models.face.topology import EYE_LEFT_CONTOUR, EYE_RIGHT_CONTOUR, LIPS_CONTOUR
from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel
from ..core_models.motion.blinking import drift_track
from ..core_models.motion.motion_intensity import (
    EmpiricalDistribution,
    IntensityScale,
    MotionCoefficients,
    face_variance,
    neck_places,
    neck_variance,
)
from ..core_models.rendering.mesh import MeshRenderer
from ..core_models.types import Emotion, FaceMotion, ProgressCallback
from ..core_models.video_diffusion.fantasytalking.framing import roomy_square
from .actalker_data import (
    DRAWN_SIZE,
    FACE_BOX_SCALE,
    FRAME_SIZE,
    FRAME_STEP,
    framed,
    landmark_box,
    livelier,
    opening_gaps,
    thinned,
)
from .clip_archive import keep_arrays, read_clip_archive, require_boxes, write_clip_archive
from .made_heads.identity import MadeIdentity, made_identity
from .made_heads.performance import FPS, MadePerformance, made_performances
from .made_heads.portrait import draw_portrait
from .takin_ada_pocket_data import heard_layers

CLIP_FRAMES = 37
"""Frames of a clip unless asked otherwise: 10 latent frames, 2.96 s."""
HEARD_PER_FRAME = 2 * FRAME_STEP
"""Rows of what is heard, at 50 Hz, for each frame."""
HEARD_MARGIN = 20
"""Rows before a clip's first frame, and after its last: audio windows reach 17 rows before and 4 after."""
MARGIN_FRAMES = HEARD_MARGIN // 2
"""The same in frames of 1/25 s, by which performances are longer than clips at both ends."""

TURN_DEGREES = (4.0, 7.0, 2.5)
"""Spread of pitch, yaw and roll in a clip whose head turns most; in others it is drawn between 0 and that."""
SHIFT = (0.2, 0.1, 0.0)
"""Spread of the head's place sideways and upwards, over the distance of the eyes' outer corners, drawn likewise."""
WANDERED = 2.0
"""Heads wander so many times faster than people's do, at 0.1 to 0.9 Hz, to be seen in 3 s."""

_FOREHEAD, _CHIN = 10, 152
_KIND = "fantasytalking_clips_1"
_TABLES = ("face_values", "face_shares", "body_values", "body_shares")


@dataclass(frozen=True, eq=False)
class TalkingClip:
    """N frames of a made head at 12.5 fps, what is heard, and what is true of them.

    frames: (N, 64, 64, 3) uint8 RGB, cut alike in all frames.
    heard: (4 N + 40, L, C) float16, the listener's layers at 50 Hz; frame i begins with row 4 i + 20.
    mouth_opening, eye_opening: (N,) float32, the gap of the inner lips' middles, and on average of both eyes that of
    the lids' middles, over the height of the face at rest.
    turn: (N, 2) float32 degrees of yaw and pitch towards the camera, as fitted to the true landmarks: an open mouth
    changes pitch by up to 2 degrees.
    place: (N, 2) float32, where the top of the neck is, x and y in pixels of the frame.
    face_box, mouth_box, eye_box: (N, 4) int32 left, top, right, bottom in pixels of the frame, the last two exclusive:
    in each frame the smallest box of the face, widened by 1.2; of the lips; of both eyes.
    face_variance, body_variance: () float64, as `motion_intensity` measures face and neck.
    identity_seed: names the person.
    Arrays are read-only; those that are given so are kept, others copied.
    Raises ValueError for other shapes or dtypes, NaN, no frame, or a box that is empty or not within the frame.
    """

    frames: np.ndarray
    heard: np.ndarray
    mouth_opening: np.ndarray
    eye_opening: np.ndarray
    turn: np.ndarray
    place: np.ndarray
    face_box: np.ndarray
    mouth_box: np.ndarray
    eye_box: np.ndarray
    face_variance: np.ndarray
    body_variance: np.ndarray
    identity_seed: int

    def __post_init__(self) -> None:
        count = len(self.frames)
        if count < 1:
            raise ValueError("TalkingClip.frames is empty, expected at least one frame")
        layers = self.heard.shape[1:]
        expected = {
            "frames": (np.uint8, (count, FRAME_SIZE, FRAME_SIZE, 3)),
            "heard": (np.float16, (heard_rows(count), *(layers if len(layers) == 2 else ("L", "C")))),
            **dict.fromkeys(("mouth_opening", "eye_opening"), (np.float32, (count,))),
            **dict.fromkeys(("turn", "place"), (np.float32, (count, 2))),
            **dict.fromkeys(("face_box", "mouth_box", "eye_box"), (np.int32, (count, 4))),
            **dict.fromkeys(("face_variance", "body_variance"), (np.float64, ())),
        }
        keep_arrays(self, expected, f"the clip of person {self.identity_seed}")
        for name in ("face_box", "mouth_box", "eye_box"):
            require_boxes(f"TalkingClip.{name}", getattr(self, name), FRAME_SIZE)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def heard_within(self) -> np.ndarray:
        """(4 N, L, C) float16: what is heard from the first frame's beginning to the last one's end; a view."""
        return self.heard[HEARD_MARGIN : len(self.heard) - HEARD_MARGIN]


class TalkingClips(NamedTuple):
    """Clips of one length, and the scale by which movements in them become coefficients."""

    clips: tuple[TalkingClip, ...]
    scale: IntensityScale

    def coefficients(self, index: int) -> MotionCoefficients:
        """Return how much face and body of a clip move, in 0..1."""
        clip = self.clips[index]
        return self.scale.coefficients(float(clip.face_variance), float(clip.body_variance))


def heard_rows(count: int) -> int:
    """Return the rows of what is heard under `count` frames and beyond them."""
    return HEARD_PER_FRAME * count + 2 * HEARD_MARGIN


def performance_seconds(count: int) -> float:
    """Return how long a performance must be for a clip of `count` frames and what is heard beyond its ends."""
    return (FRAME_STEP * count + 2 * MARGIN_FRAMES) / FPS


def moved_about(motion: FaceMotion, rng: np.random.Generator) -> FaceMotion:
    """Return a motion whose head turns and shifts as much as is drawn for it: evenly between not at all and most.

    Both wander, independently, with exactly the spread that was drawn, before the renderer holds back what goes too
    far.
    """
    turn, shift = rng.uniform(0, 1, 2)
    tracks = (_wandering(motion, rng, TURN_DEGREES), _wandering(motion, rng, SHIFT))
    return replace(motion, rotation=turn * tracks[0], translation=shift * tracks[1])


def _wandering(motion: FaceMotion, rng: np.random.Generator, spread: Sequence[float]) -> np.ndarray:
    track = drift_track(motion.frame_count, motion.fps / WANDERED, rng, (1.0, 1.0, 1.0))
    track -= track.mean(axis=0)
    return np.asarray(spread) * track / np.maximum(track.std(axis=0), np.finfo(float).tiny)


def talking_clip(
    renderer: MeshRenderer,
    identity: MadeIdentity,
    performance: MadePerformance,
    listener: TakinADAModel,
    rng: np.random.Generator,
) -> TalkingClip:
    """Return a person giving a performance at 25 fps, of which every second frame is kept, without its margins.

    renderer: of the identity's portrait at any size. listener: what hears. rng: of all movements but the mouth's.
    Raises ValueError for a performance that is not longer than its margins, or an odd number of frames.
    """
    whole = performance.motion.frame_count
    count, rest = divmod(whole - 2 * MARGIN_FRAMES, FRAME_STEP)
    if count < 1 or rest:
        raise ValueError(
            f"the performance has {whole} frames, expected {2 * MARGIN_FRAMES} and two for each frame of the clip"
        )
    motion = moved_about(_kept(livelier(performance.motion, rng)), rng)
    drawn, landmarks = list(renderer.frames(motion)), renderer.landmarks(motion).astype(np.float64)
    square, height = _framing(renderer)
    points = landmarks * (FRAME_SIZE / square[2])
    points[..., :2] -= (np.array(square[:2]) - 0.5) * (FRAME_SIZE / square[2]) + 0.5
    openings = opening_gaps(points[..., :2]) * (square[2] / FRAME_SIZE / height)
    poses = [fit_head_pose(one).rotation for one in points]
    return TalkingClip(
        frames=np.stack([framed(frame, square) for frame in drawn]),
        heard=_heard(listener, performance.sound.waveform[0], heard_rows(count)),
        mouth_opening=openings[:, 2],
        eye_opening=openings[:, :2].mean(axis=1),
        turn=np.array([(yaw, pitch) for pitch, yaw, _ in poses], np.float32),
        place=neck_places(points)[0].astype(np.float32),
        face_box=_boxes(points, range(len(points[0])), FACE_BOX_SCALE),
        mouth_box=_boxes(points, LIPS_CONTOUR),
        eye_box=_boxes(points, (*EYE_RIGHT_CONTOUR, *EYE_LEFT_CONTOUR)),
        face_variance=np.array(face_variance(points) if count > 1 else 0.0),
        body_variance=np.array(neck_variance(points) if count > 1 else 0.0),
        identity_seed=identity.seed,
    )


def _kept(motion: FaceMotion) -> FaceMotion:
    """Return every second frame between the margins."""
    names = ("expression", "rotation", "translation", "scale")
    margin = slice(MARGIN_FRAMES, motion.frame_count - MARGIN_FRAMES)
    return thinned(replace(motion, **{name: getattr(motion, name)[margin] for name in names}))


def _framing(renderer: MeshRenderer) -> tuple[tuple[int, int, int], float]:
    """Return the square that is cut, and the height of the face at rest, both in pixels of the portrait."""
    rest = np.asarray(renderer.portrait.landmarks, np.float64)[:, :2]
    return roomy_square(rest), float(np.linalg.norm(rest[_FOREHEAD] - rest[_CHIN]))


def _heard(listener: TakinADAModel, waveform: np.ndarray, rows: int) -> np.ndarray:
    """Return (rows, L, C) float16 at 50 Hz of mono sound (T,) at 16 kHz; after it are zeros."""
    decibels = mel_decibels(np.asarray(waveform))
    layers = heard_layers(listener, decibels + level_gain(decibels))[:rows]
    return np.concatenate([layers, np.zeros((rows - len(layers), *layers.shape[1:]), layers.dtype)])


def _boxes(points: np.ndarray, chosen: Iterable[int], scale: float = 1.0) -> np.ndarray:
    """Return (N, 4) int32: each frame's box of some of the landmarks (N, K, 2 or more)."""
    return np.stack([landmark_box(one[None, list(chosen), :2], scale) for one in points])


def talking_clips(
    identities: Sequence[int],
    clips_each: int,
    frames: int,
    seed: int,
    listener: TakinADAModel,
    performances: Iterable[MadePerformance] | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[TalkingClip]:
    """Yield `clips_each` clips of every person, each speaking other sentences of espeak-ng, with a neutral face.

    identities: seeds, such as of TRAINING_IDENTITIES or HELD_OUT_IDENTITIES. The same arguments give the same clips in
    every fresh process (see `made_performances`). performances: in place of speech; all but the mouth is drawn anew.
    progress: called with (clips done, clips).
    Raises SynthesiserMissingError where espeak-ng is missing, ValueError for no identity, no clip or no frame.
    """
    if not len(identities) or min(clips_each, frames) < 1:
        raise ValueError(
            f"there are {len(identities)} identities, {clips_each} clips of each and {frames} frames, expected at "
            "least 1"
        )
    total = len(identities) * clips_each
    if performances is None:
        neutral = Emotion.mixed({"neutral": 1.0})
        performances = made_performances(total, seed, performance_seconds(frames), neutral)
    given = iter(performances)
    for index, number in enumerate(identities):
        identity = made_identity(int(number))
        renderer = MeshRenderer(draw_portrait(identity, DRAWN_SIZE))
        for take in range(clips_each):
            rng = np.random.default_rng([seed, int(number), take])
            yield talking_clip(renderer, identity, next(given), listener, rng)
            if progress is not None:
                progress(index * clips_each + take + 1, total)


def fitted_scale(clips: Sequence[TalkingClip]) -> IntensityScale:
    """Return the scale by which the clips' coefficients lie evenly in 0..1.

    Raises ValueError unless two of them move differently.
    """
    measured = ([float(getattr(clip, name)) for clip in clips] for name in ("face_variance", "body_variance"))
    return IntensityScale(*map(EmpiricalDistribution.fitted, measured))


def write_talking_clips(path: Path, clips: Sequence[TalkingClip], scale: IntensityScale) -> None:
    """Write clips of one length, and their scale, as one .npz of stacked arrays, whole or not at all.

    Raises ValueError for no clip, clips of several lengths or another suffix; OSError when it cannot be written.
    """
    tables = (scale.face.values, scale.face.shares, scale.body.values, scale.body.shares)
    more = dict(zip(_TABLES, map(np.array, tables), strict=True))
    write_clip_archive(path, _KIND, clips, _names(), more)


def read_talking_clips(path: Path) -> TalkingClips:
    """Return the clips of a file that `write_talking_clips` wrote; they share its arrays, which lie in memory once.

    400 clips of 37 frames take 350 MB. Raises FileNotFoundError, and ValueError for a file that is damaged or of
    another kind.
    """
    arrays = read_clip_archive(path, _KIND, (*_names(), *_TABLES), "FantasyTalking clips")
    face_values, face_shares, body_values, body_shares = (
        tuple(arrays.pop(name).tolist()) for name in _TABLES
    )
    seeds = arrays.pop("identity_seed").tolist()
    clips = tuple(
        TalkingClip(**{name: _row(values, row) for name, values in arrays.items()}, identity_seed=seed)
        for row, seed in enumerate(seeds)
    )
    face, body = (
        EmpiricalDistribution(face_values, face_shares),
        EmpiricalDistribution(body_values, body_shares),
    )
    return TalkingClips(clips, IntensityScale(face, body))


def _row(values: np.ndarray, row: int) -> np.ndarray:
    """Return a view of a row, of single numbers too."""
    return values[row : row + 1].reshape(values.shape[1:])


def _names() -> list[str]:
    return [field.name for field in fields(TalkingClip)]
