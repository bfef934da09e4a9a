"""A face that speaks, by Takin-ADA: what was sampled, in blendshapes or on a portrait's implicit keypoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..audio.frame_clock import frame_count
from ..motion.blendshape_retargeting import FaceGeometry, face_geometry, retarget_motion
from ..motion.curve_picture import PreviewCallback, curve_picture, frames_between
from ..motion.keypoint_geometry import KeypointReadings
from ..motion.pose_track import fitted_track
from ..rendering.liveportrait.portrait_reading import read_portrait
from ..types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPES,
    IMPLICIT_KEYPOINTS,
    AudioEmbedding,
    Emotion,
    FaceMotion,
    Portrait,
    PortraitVideo,
    ProgressCallback,
    portraits_of,
)
from .choices import ABSOLUTE
from .kdtalker_performance import PerformanceParameters, pose_rows, shaped
from .kdtalker_sampler import motion_of_portrait
from .motion_vectors import CANONICAL_SIZE, LOWER_LIP, SCALE, motion_vectors, readings_from_vectors
from .sampler import SamplingParameters, performed, to_face_motion
from .takin_ada import TAKIN_ADA_FPS, TakinADAModel
from .takin_ada_sampler import TakinADASamplingParameters, emotion_scores, hidden_states, sample_scores
from .takin_ada_stream import Direction, Given

if TYPE_CHECKING:
    from ..motion.motion_extractor import MotionExtractor


@dataclass(frozen=True)
class TakinADAOptions:
    """How to sample, and what becomes of it: `face` in blendshapes, `portrait` on implicit keypoints."""

    sampling: TakinADASamplingParameters = field(default_factory=TakinADASamplingParameters)
    face: SamplingParameters = field(default_factory=SamplingParameters)
    portrait: PerformanceParameters = field(default_factory=PerformanceParameters)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> TakinADAOptions:
        """Return options of settings by the names of their fields; each part takes those it has."""

        def part(kind: type) -> Any:
            names = {one.name for one in fields(kind)}
            return kind(**{name: value for name, value in settings.items() if name in names})

        return cls(part(TakinADASamplingParameters), part(SamplingParameters), part(PerformanceParameters))


def speaking_face(
    model: TakinADAModel,
    embedding: AudioEmbedding,
    emotion: Emotion | None = None,
    options: TakinADAOptions | None = None,
    pose: FaceMotion | None = None,
    progress: ProgressCallback | None = None,
    preview: PreviewCallback | None = None,
) -> list[FaceMotion]:
    """Return motions in blendshapes, one per variation, as long as the sound, of a model over blendshapes.

    emotion: None takes the emotion that is heard in the speech. pose: a track whose head pose is taken as it is.
    preview: called with a picture of the first variation's motion as it comes about.
    Raises ValueError for a model over implicit keypoints, and as `hidden_states` does.
    """
    options = options or TakinADAOptions()
    _require_space(model, BLENDSHAPES)
    frames = frame_count(embedding.duration, TAKIN_ADA_FPS)
    rows = None if pose is None else _face_pose(pose, frames)
    direction = Direction(given=directed(model, emotion, rows))
    made = sample_scores(
        model, embedding, options.sampling, direction, progress, _pictures(model, preview, frames)
    )
    motions = model.denormalise(made.scores).float().cpu().numpy()
    closed = np.zeros(frames) if made.closed is None else made.closed.float().cpu().numpy()
    return [
        performed(to_face_motion(motion, closed, options.face), options.face, seed, pose, embedding.duration)
        for motion, seed in zip(motions, options.sampling.seeds, strict=True)
    ]


def speaking_keypoints(
    model: TakinADAModel,
    source: KeypointReadings,
    embedding: AudioEmbedding,
    emotion: Emotion | None = None,
    options: TakinADAOptions | None = None,
    pose: FaceMotion | None = None,
    geometry: FaceGeometry | None = None,
    progress: ProgressCallback | None = None,
    preview: PreviewCallback | None = None,
) -> list[FaceMotion]:
    """Return motions in implicit keypoints of a portrait, one per variation, of a model over implicit keypoints.

    source: the portrait's reading (one row): where the motion starts from, whom it is for, and the expression that an
    emotion is counted from. emotion, pose, preview: as `speaking_face` has them; pose in either space, geometry: of the
    portrait, for one in blendshapes. Raises ValueError for a model over blendshapes, and as `hidden_states` does.
    """
    options = options or TakinADAOptions()
    _require_space(model, IMPLICIT_KEYPOINTS)
    frames = frame_count(embedding.duration, TAKIN_ADA_FPS)
    if pose is not None and pose.space == BLENDSHAPES:
        pose = retarget_motion(pose, geometry=geometry)
    rows = None if pose is None else _keypoint_pose(source, pose, embedding)
    direction = keypoint_direction(model, source, emotion, rows)
    made = sample_scores(
        model, embedding, options.sampling, direction, progress, _pictures(model, preview, frames)
    )
    vectors = model.denormalise(made.scores).cpu().double().numpy()
    motions = [placed_on(source, rows) for rows in vectors]
    return [
        shaped(motion, options.portrait, seed, embedding.duration, pose)
        for motion, seed in zip(motions, options.sampling.seeds, strict=True)
    ]


def placed_on(source: KeypointReadings, vectors: np.ndarray) -> FaceMotion:
    """Return (N, 70) motion vectors as a motion of a portrait's reading (one row).

    The head keeps the portrait's size: Takin-ADA's transform has none, and a size that is made up would make it swell.
    """
    kept = vectors.copy()
    kept[:, SCALE] = source.scale[0]
    return motion_of_portrait(source, readings_from_vectors(kept, source.canonical), ABSOLUTE)


def speaking_portrait(
    model: TakinADAModel,
    portrait: Portrait | PortraitVideo,
    extractor: MotionExtractor,
    embedding: AudioEmbedding,
    emotion: Emotion | None = None,
    options: TakinADAOptions | None = None,
    pose: FaceMotion | None = None,
    progress: ProgressCallback | None = None,
    preview: PreviewCallback | None = None,
) -> list[FaceMotion]:
    """Return `speaking_keypoints` of a portrait, which the motion extractor reads first.

    Raises ValueError for a film, before anything is read.
    """
    portraits = portraits_of(portrait)
    if len(portraits) > 1:
        raise ValueError(f"Takin-ADA animates one portrait, not a film of {len(portraits)} frames")
    source = read_portrait(portrait, extractor)
    geometry = face_geometry(portraits[0])
    return speaking_keypoints(model, source, embedding, emotion, options, pose, geometry, progress, preview)


def keypoint_direction(
    model: TakinADAModel, source: KeypointReadings, emotion: Emotion | None, pose: np.ndarray | None
) -> Direction:
    """Return what a portrait's reading (one row) says: where motion starts, whom it is for, its resting expression.

    emotion, pose: as `directed` has them.
    """
    like = model.motion_mean
    start = model.normalise(torch.from_numpy(motion_vectors(source)[0]).to(like))
    token = None
    if model.parameters_used.source_size:
        canonical = torch.from_numpy(source.canonical.reshape(-1)[:CANONICAL_SIZE]).to(like)
        token = (canonical - model.source_mean) / model.source_std
    own = start[list(model.parameters_used.layout.expression)]
    return Direction(start, token, directed(model, emotion, pose, own))


def directed(
    model: TakinADAModel, emotion: Emotion | None, pose: np.ndarray | None, base: Tensor | None = None
) -> Given:
    """Return what is given of each frame, for `Direction`.

    emotion: None leaves it to the speech, or is neutral for a model that never heard one. pose: (N, 6) angles and
    location in the layout's units and order, or None. base: the expression an emotion is counted from, z-scores; None
    is neutral as the model learned it.
    """
    layout = model.parameters_used.layout
    if emotion is None and not model.parameters_used.hears_emotion:
        emotion = Emotion.mixed({"neutral": 1.0})
    emotional = None if emotion is None else emotion_scores(model, emotion, base)
    held = None
    if pose is not None:
        columns = [*layout.angles, *layout.location]
        mean, std = model.motion_mean[columns].cpu(), model.motion_std[columns].cpu()
        held = ((torch.from_numpy(pose).float() - mean.float()) / std.float()).split(
            [len(layout.angles), len(layout.location)], dim=1
        )

    def given(first: int, count: int) -> dict[str, Tensor]:
        rows = {} if emotional is None else {"emotion": emotional(first, count)}
        if held is not None:
            for name, values in zip(("angles", "location"), held, strict=True):
                rows[name] = values[first : first + count]
        return rows

    return given


def heard_emotion(model: TakinADAModel, embedding: AudioEmbedding) -> np.ndarray:
    """Return (N, 7): the emotion heard in the speech at each frame, as weights times strength by EMOTION_NAMES.

    It is what the model shows where no emotion is given, in terms of its affective vectors, least squares with weights
    of at least 0. Raises ValueError as `hidden_states` does.
    """
    from scipy.optimize import nnls

    frames = frame_count(embedding.duration, TAKIN_ADA_FPS)
    with torch.inference_mode():
        speech = model.heard(hidden_states(model, embedding, frames))
        heard = model.adapters["emotion"].predict(speech)[0][0] - model.neutral_emotion
    vectors = model.affective_vectors.cpu().double().numpy()
    rows = np.zeros((frames, len(vectors)), np.float32)
    for index, row in enumerate(heard.cpu().double().numpy()):
        rows[index, 1:] = nnls(vectors[1:].T, row)[0]
    return rows


def _face_pose(pose: FaceMotion, frames: int) -> np.ndarray:
    pose.require_space(BLENDSHAPES)
    track = fitted_track(pose, TAKIN_ADA_FPS, frames)
    return np.concatenate([track.rotation, track.translation], axis=1)


def _keypoint_pose(source: KeypointReadings, pose: FaceMotion, embedding: AudioEmbedding) -> np.ndarray:
    """Return (N, 6) in the layout's order: pitch, yaw, roll and translation."""
    return pose_rows(source, pose, embedding)[:, [1, 0, 2, 3, 4, 5]]


def _require_space(model: TakinADAModel, space: str) -> None:
    made = model.parameters_used.layout.space
    if made != space:
        raise ValueError(f"this Takin-ADA model makes motion in the {made} space, not in the {space} space")


def _pictures(
    model: TakinADAModel, preview: PreviewCallback | None, total: int
) -> Callable[[Tensor], None] | None:
    """Return what shows the first variation's head angles and mouth as far as they are made, or None."""
    if preview is None:
        return None
    layout, every = model.parameters_used.layout, frames_between(total)

    def show(scores: Tensor) -> None:
        rows = scores[0, ::every].float().cpu().numpy()
        angles = dict(zip(("pitch", "yaw", "roll"), rows[:, list(layout.angles)].T, strict=True))
        mouth = BLENDSHAPE_INDEX["jawOpen"] if layout.space == BLENDSHAPES else LOWER_LIP
        preview(curve_picture({**angles, "mouth": rows[:, mouth]}, -(-total // every)))

    return show
