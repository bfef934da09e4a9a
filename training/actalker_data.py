"""Clips for a small ACTalker: made heads at 64 pixels, with all that steers them and all that is true of them known.

Head, brows, lids and gaze are drawn apart from the sound, so that sound tells the mouth and nothing else. The speech
model is the embedded default's own listener, where the release has Whisper.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np

from ..core_models.audio.mel import level_gain, mel_decibels
from ..core_models.face.opening_ratios import OPENINGS_478
from ..core_models.face.topology import EYE_LEFT_CONTOUR, EYE_RIGHT_CONTOUR, LIPS_CONTOUR
from ..core_models.keypoint_diffusion.loading import load_pocket
from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel
from ..core_models.motion.blinking import blink_shape, drift_track, with_blinks
from ..core_models.motion.rotation import angles_from_quaternions, multiply, quaternions_from_angles
from ..core_models.rendering.mesh import MeshRenderer
from ..core_models.types import BLENDSHAPE_INDEX, Emotion, FaceMotion, ProgressCallback
from ..core_models.video_diffusion.actalker.blendshape_motion import SIGNAL_SIZE, motion_signal
from ..core_models.video_diffusion.actalker.prepared_picture import cut_out, face_square
from .clip_archive import keep_arrays, read_clip_archive, require_boxes, write_clip_archive
from .made_heads.identity import MadeIdentity, made_identity
from .made_heads.performance import MadePerformance, made_performances
from .made_heads.portrait import LARGEST_SIZE, draw_portrait
from .performance import BROW_SHARES
from .takin_ada_pocket_data import heard_layers, listener_weights, pocket_sized

FRAME_SIZE = 64
"""Pixels a side."""
FRAME_STEP = 2
"""Of 25 frames a second every second is kept, as the release does: 12.5 fps."""
DRAWN_SIZE = LARGEST_SIZE
"""Pixels a side at which heads are drawn before they are cut and shrunk."""
FACE_BOX_SCALE = 1.2
"""The face's box is widened by this about its middle (facts of the release; arXiv 2504.02542: "extension")."""

HEARD_STEPS = 16
"""Rows of what is heard that a frame gets, at 50 Hz: 160 ms before the frame's middle and as much after it."""
HEARD_STRIDE = 2 * FRAME_STEP
"""Rows from one frame to the next."""
HEARD_BEFORE = HEARD_STEPS // 2 - 1
"""Rows before that which begins a frame of 1/25 s, so that the window lies about the frame's middle."""


HEAD_DEGREES = (0.3, 0.5, 0.2)
"""Spread of pitch, yaw and roll: the head all but rests, so that where a change shows is where its region is."""
LARGEST_TURN = (0.8, 1.2, 0.5)
QUICKENED = 2.5
"""Heads, brows and lids wander so many times faster than people's heads, at 0.1 to 1.1 Hz, to be seen in 3 s."""
BROW_SPREAD, LARGEST_BROW = 0.45, 0.9
LID_SPREAD, LARGEST_LID = 0.25, 0.5
SECONDS_PER_BLINK = 1.5
"""People blink every 4 s."""
SLOWER_BLINKS = 1.6
"""Blinks last 0.24 to 0.48 s, so that 12.5 fps show them."""

_BROW_DOWN = [BLENDSHAPE_INDEX["browDownLeft"], BLENDSHAPE_INDEX["browDownRight"]]
_LIDS = [BLENDSHAPE_INDEX["eyeBlinkLeft"], BLENDSHAPE_INDEX["eyeBlinkRight"]]
_WIDE = [BLENDSHAPE_INDEX["eyeWideLeft"], BLENDSHAPE_INDEX["eyeWideRight"]]
_FOREHEAD, _CHIN = 10, 152
_KIND = "actalker_clips_1"


@dataclass(frozen=True, eq=False)
class ControlledClip:
    """N frames of a made head at 12.5 fps, what steers them, and what is true of them.

    frames: (N, 64, 64, 3) uint8 RGB, cut alike in all frames.
    heard: (R, L, C) float16, the listener's layers at 50 Hz with zeros around the clip, R = 4 (N - 1) + 16; `audio` are
    its windows.
    motion: (N, 58) float32: 52 coefficients, pitch, yaw, roll in tens of degrees, translation in face units, away from
    rest.
    mouth_opening, eye_opening: (N,) float32, the gap of the inner lips' middles, and on average of both eyes that of
    the lids' middles, over the height of the face at rest.
    turn: (N, 2) float32 degrees of yaw and pitch towards the camera, the resting pose included.
    face_box, mouth_box, eye_box: (4,) int32 left, top, right, bottom in pixels of the frame, the last two exclusive:
    the smallest box that holds all the frames' faces, widened by 1.2; all their lips; all their eyes.
    identity_seed: names the person.
    Arrays are read-only; those that are given so are kept, others copied.
    Raises ValueError for other shapes or dtypes, NaN, no frame, or a box that is empty or not within the frame.
    """

    frames: np.ndarray
    heard: np.ndarray
    motion: np.ndarray
    mouth_opening: np.ndarray
    eye_opening: np.ndarray
    turn: np.ndarray
    face_box: np.ndarray
    mouth_box: np.ndarray
    eye_box: np.ndarray
    identity_seed: int

    def __post_init__(self) -> None:
        count = len(self.frames)
        if count < 1:
            raise ValueError("ControlledClip.frames is empty, expected at least one frame")
        layers = self.heard.shape[1:]
        expected = {
            "frames": (np.uint8, (count, FRAME_SIZE, FRAME_SIZE, 3)),
            "heard": (np.float16, (heard_rows(count), *(layers if len(layers) == 2 else ("L", "C")))),
            "motion": (np.float32, (count, SIGNAL_SIZE)),
            "mouth_opening": (np.float32, (count,)),
            "eye_opening": (np.float32, (count,)),
            "turn": (np.float32, (count, 2)),
            **dict.fromkeys(("face_box", "mouth_box", "eye_box"), (np.int32, (4,))),
        }
        keep_arrays(self, expected, f"the clip of person {self.identity_seed}")
        for name in ("face_box", "mouth_box", "eye_box"):
            require_boxes(f"ControlledClip.{name}", getattr(self, name), FRAME_SIZE)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def audio(self) -> np.ndarray:
        """(N, 16, L, C) float16: what is heard around each frame; a view of `heard`, which takes no memory."""
        windows = np.lib.stride_tricks.sliding_window_view(self.heard, HEARD_STEPS, axis=0)
        return np.moveaxis(windows[::HEARD_STRIDE], -1, 1)


def heard_rows(count: int) -> int:
    """Return the rows that `count` frames' windows reach over."""
    return HEARD_STRIDE * (count - 1) + HEARD_STEPS


def embedded_listener() -> TakinADAModel:
    """Return a model whose listener is the embedded default's; its other weights are not used.

    Raises what `load_pocket` raises.
    """
    pocket = load_pocket()
    model = TakinADAModel(pocket_sized(pocket))
    model.load_state_dict({**model.state_dict(), **listener_weights(pocket)})
    return model.eval().requires_grad_(False)


def heard_by_frames(listener: TakinADAModel, waveform: np.ndarray, count: int) -> np.ndarray:
    """Return (R, L, C) float16 as `ControlledClip.heard` of mono sound (T,) at 16 kHz under `count` frames, 12.5 fps.

    Row r is what is heard at 50 Hz, 7 rows earlier; before the sound and after it are zeros, as the release has them
    around Whisper's rows.
    """
    decibels = mel_decibels(np.asarray(waveform))
    layers = heard_layers(listener, decibels + level_gain(decibels))
    rows = np.zeros((heard_rows(count), *layers.shape[1:]), np.float16)
    kept = layers[: len(rows) - HEARD_BEFORE]
    rows[HEARD_BEFORE : HEARD_BEFORE + len(kept)] = kept
    return rows


def livelier(motion: FaceMotion, rng: np.random.Generator) -> FaceMotion:
    """Return a motion in blendshapes whose mouth and gaze stay, and whose head, brows and lids are drawn anew.

    They move more than people's do while they talk (see the constants), and know nothing of the sound.
    """
    count, quick = motion.frame_count, motion.fps / QUICKENED
    head = np.clip(drift_track(count, quick, rng, HEAD_DEGREES), np.negative(LARGEST_TURN), LARGEST_TURN)
    brow, lid, _ = drift_track(count, quick, rng, (BROW_SPREAD, LID_SPREAD, 0.0)).T
    expression = motion.expression.copy()
    for name, share in BROW_SHARES:
        expression[:, BLENDSHAPE_INDEX[name]] = share * np.clip(brow, 0, LARGEST_BROW)
    expression[:, _BROW_DOWN] = np.clip(-brow, 0, LARGEST_BROW)[:, None]
    expression[:, _LIDS] = np.clip(lid, 0, LARGEST_LID)[:, None]
    expression[:, _WIDE] = np.clip(-lid, 0, LARGEST_LID)[:, None]
    expression = with_blinks(expression, _blinks(count, motion.fps, rng))
    return replace(
        motion,
        expression=expression,
        rotation=head,
        translation=np.zeros((count, 3)),
        scale=np.ones(count),
    )


def _blinks(count: int, fps: float, rng: np.random.Generator) -> np.ndarray:
    """Return (N,) 0..1: lids closed by blinks about SECONDS_PER_BLINK apart."""
    closure = np.zeros(count)
    time = rng.uniform(0.2, 1.0) * SECONDS_PER_BLINK
    while time * fps < count:
        shape = blink_shape(SLOWER_BLINKS * fps, rng)
        first = round(time * fps) - int(np.argmax(shape))
        shown = np.arange(max(first, 0), min(first + len(shape), count))
        closure[shown] = np.maximum(closure[shown], shape[shown - first])
        time += rng.uniform(0.5, 1.5) * SECONDS_PER_BLINK
    return closure


def controlled_clip(
    renderer: MeshRenderer, identity: MadeIdentity, performance: MadePerformance, listener: TakinADAModel
) -> ControlledClip:
    """Return a person giving a performance at 25 fps, of which every second frame is kept.

    renderer: of the identity's portrait at any size. listener: what hears.
    """
    motion = thinned(performance.motion)
    drawn, points = list(renderer.frames(motion)), renderer.landmarks(motion).astype(np.float64)[..., :2]
    rest = np.asarray(renderer.portrait.landmarks, np.float64)[:, :2]
    square = face_square(rest)
    corner, side = square[:2], square[2]
    points = (points - corner + 0.5) * (FRAME_SIZE / side) - 0.5
    height = float(np.linalg.norm(rest[_FOREHEAD] - rest[_CHIN])) * FRAME_SIZE / side
    openings = opening_gaps(points) / height
    return ControlledClip(
        frames=np.stack([framed(frame, square) for frame in drawn]),
        heard=heard_by_frames(listener, performance.sound.waveform[0], motion.frame_count),
        motion=motion_signal(motion),
        mouth_opening=openings[:, 2],
        eye_opening=openings[:, :2].mean(axis=1),
        turn=_turn(motion.rotation, identity.pose),
        face_box=landmark_box(points, FACE_BOX_SCALE),
        mouth_box=landmark_box(points[:, list(LIPS_CONTOUR)]),
        eye_box=landmark_box(points[:, [*EYE_RIGHT_CONTOUR, *EYE_LEFT_CONTOUR]]),
        identity_seed=identity.seed,
    )


def thinned(motion: FaceMotion) -> FaceMotion:
    """Return every second frame of a motion, at half the rate."""
    names = ("expression", "rotation", "translation", "scale")
    return replace(
        motion,
        fps=motion.fps / FRAME_STEP,
        **{name: getattr(motion, name)[::FRAME_STEP] for name in names},
    )


def framed(frame: np.ndarray, square: tuple[int, int, int]) -> np.ndarray:
    """Return a square of a picture (left, top, side; see `cut_out`) as (64, 64, 3) uint8."""
    return cv2.resize(cut_out(frame, square), (FRAME_SIZE, FRAME_SIZE), interpolation=cv2.INTER_AREA)


def opening_gaps(points: np.ndarray) -> np.ndarray:
    """Return (N, 3) pixels: how far the lids of both eyes and the lips are apart."""
    gaps = [np.linalg.norm(points[:, one.upper] - points[:, one.lower], axis=1) for one in OPENINGS_478]
    return np.stack(gaps, axis=1).astype(np.float32)


def _turn(rotation: np.ndarray, rest: Sequence[float]) -> np.ndarray:
    """Return (N, 2) float32 yaw and pitch of a head that rests turned, and is turned by (N, 3) degrees from there."""
    whole = multiply(quaternions_from_angles(np.asarray(rest)), quaternions_from_angles(rotation))
    return angles_from_quaternions(whole)[:, [1, 0]].astype(np.float32)


def landmark_box(points: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Return (4,) int32 left, top, right, bottom: the smallest box of whole pixels around landmarks (N, K, 2).

    points: pixels, whose middles are whole numbers; N frames share the box. scale: of the box about its middle, before
    it is cut off at the frame's edges. The paper's region masks are filled boxes of this kind (arXiv 2504.02542).
    """
    flat = points.reshape(-1, 2) + 0.5
    low, high = flat.min(axis=0), flat.max(axis=0)
    middle, reach = (low + high) / 2, (high - low) / 2 * scale
    edges = np.concatenate([np.floor(middle - reach), np.ceil(middle + reach)])
    return np.clip(edges, 0, FRAME_SIZE).astype(np.int32)


def controlled_clips(
    identities: Sequence[int],
    clips_each: int,
    seconds: float,
    seed: int,
    listener: TakinADAModel,
    performances: Iterable[MadePerformance] | None = None,
    progress: ProgressCallback | None = None,
) -> Iterator[ControlledClip]:
    """Yield `clips_each` clips of every person, each speaking other sentences of espeak-ng, with a neutral face.

    identities: seeds, such as of TRAINING_IDENTITIES or HELD_OUT_IDENTITIES. The same arguments give the same clips in
    every fresh process (see `made_performances`). performances: in place of speech; head, brows and lids of them are
    drawn anew all the same. progress: called with (clips done, clips).
    Raises SynthesiserMissingError where espeak-ng is missing, ValueError for no identity, no clip or too few seconds.
    """
    if not len(identities) or clips_each < 1:
        raise ValueError(
            f"there are {len(identities)} identities and {clips_each} clips of each, expected at least 1"
        )
    total = len(identities) * clips_each
    if performances is None:
        performances = made_performances(total, seed, seconds, Emotion.mixed({"neutral": 1.0}))
    given = iter(performances)
    for index, number in enumerate(identities):
        identity = made_identity(int(number))
        renderer = MeshRenderer(draw_portrait(identity, DRAWN_SIZE))
        for take in range(clips_each):
            rng = np.random.default_rng([seed, int(number), take])
            performance = next(given)
            performance = replace(performance, motion=livelier(performance.motion, rng))
            yield controlled_clip(renderer, identity, performance, listener)
            if progress is not None:
                progress(index * clips_each + take + 1, total)


def write_clips(path: Path, clips: Iterable[ControlledClip]) -> None:
    """Write clips of one length as one .npz of stacked arrays, not compressed, whole or not at all.

    Raises ValueError for no clip, clips of several lengths or another suffix; OSError when it cannot be written.
    """
    write_clip_archive(path, _KIND, clips, _names())


def read_clips(path: Path) -> tuple[ControlledClip, ...]:
    """Return the clips of a file that `write_clips` wrote; they share its arrays, which lie in memory once.

    400 clips of 3 s take 350 MB. Raises FileNotFoundError, and ValueError for a file that is damaged or of another
    kind.
    """
    arrays = read_clip_archive(path, _KIND, _names(), "ACTalker clips")
    seeds = arrays.pop("identity_seed").tolist()
    rows = range(len(seeds))
    return tuple(
        ControlledClip(**{name: values[row] for name, values in arrays.items()}, identity_seed=seeds[row])
        for row in rows
    )


def _names() -> list[str]:
    return [field.name for field in fields(ControlledClip)]
