"""Clips of made heads: pictures, sound, motion and landmarks that are all known exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...core_models.audio.decode import Sound
from ...core_models.face.masks import face_mask, mouth_mask, outline_mask
from ...core_models.face.topology import EYE_LEFT_CONTOUR, EYE_RIGHT_CONTOUR
from ...core_models.rendering.mesh import MeshRenderer
from ...core_models.types import LANDMARK_COUNT, Emotion, FaceMotion, frozen_array
from .identity import MadeIdentity, made_identity
from .performance import MadePerformance, frames_of_seconds, made_performances, wandering_performance
from .portrait import draw_portrait

TRAINING_IDENTITIES = range(0, 10_000)
HELD_OUT_IDENTITIES = range(10_000, 11_000)
"""Identity seeds of people that training must not see."""
REGIONS = ("face", "mouth", "eyes")
KEPT_PORTRAITS = 64
"""Renderers kept by `made_clips`; each is a few megabytes."""


@dataclass(frozen=True)
class MadeClip:
    """One made head, performing.

    frames: (N, S, S, 3) uint8 RGB. sound: mono, 16 kHz, exactly N / 25 seconds. motion: N blendshape frames, 25 fps.
    landmarks: (N, 478, 3) float32 pixels of the frames; x right, y down, z away from the camera.
    identity: who it is; its `seed` names it. emotion: what is shown.
    Raises ValueError when the lengths differ.
    """

    frames: np.ndarray
    sound: Sound
    motion: FaceMotion
    landmarks: np.ndarray
    identity: MadeIdentity
    emotion: Emotion

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", frozen_array(self.frames, np.uint8))
        object.__setattr__(self, "landmarks", frozen_array(self.landmarks))
        count = self.motion.frame_count
        if self.frames.ndim != 4 or len(self.frames) != count or self.frames.shape[3] != 3:
            raise ValueError(f"frames have shape {self.frames.shape}, expected ({count}, size, size, 3)")
        if self.landmarks.shape != (count, LANDMARK_COUNT, 3):
            raise ValueError(
                f"landmarks have shape {self.landmarks.shape}, expected ({count}, {LANDMARK_COUNT}, 3)"
            )

    @property
    def identity_seed(self) -> int:
        """The seed that made this person."""
        return self.identity.seed

    @property
    def size(self) -> int:
        """Side of the frames in pixels."""
        return self.frames.shape[1]

    def region(self, name: str) -> np.ndarray:
        """Return (N, S, S) float32 0..1: one of REGIONS in every frame. Raises ValueError for another name."""
        return region_masks(name, self.landmarks, self.size)


def region_masks(name: str, landmarks: np.ndarray, size: int) -> np.ndarray:
    """Return (N, size, size) float32 0..1 masks of a region from landmarks (N, 478, 3) in pixels.

    name: "face" (the whole mesh), "mouth" (within the outer lips) or "eyes" (within both openings of the lids).
    Raises ValueError for another name.
    """
    makers = {"face": face_mask, "mouth": mouth_mask, "eyes": _eyes_mask}
    if name not in makers:
        raise ValueError(f"unknown region {name!r}; choose one of {', '.join(REGIONS)}")
    return np.stack([makers[name](points, (size, size)) for points in landmarks])


def _eyes_mask(landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    contours = [list(EYE_RIGHT_CONTOUR), list(EYE_LEFT_CONTOUR)]
    return outline_mask(np.asarray(landmarks, np.float64)[contours, :2], size)


def made_clip(identity: MadeIdentity, performance: MadePerformance, size: int) -> MadeClip:
    """Return a person giving a performance, in frames of `size` x `size` pixels.

    Raises ValueError for a size that `draw_portrait` refuses.
    """
    return _performed(MeshRenderer(draw_portrait(identity, size)), identity, performance)


def _performed(renderer: MeshRenderer, identity: MadeIdentity, performance: MadePerformance) -> MadeClip:
    motion = performance.motion
    return MadeClip(
        frames=np.stack(list(renderer.frames(motion))),
        sound=performance.sound,
        motion=motion,
        landmarks=renderer.landmarks(motion),
        identity=identity,
        emotion=performance.emotion,
    )


def made_clips(
    seed: int,
    identities: Sequence[int],
    clips: int,
    size: int,
    seconds: float,
    speaking: bool = True,
) -> Iterator[MadeClip]:
    """Yield `clips` clips of people out of `identities`, each with a performance of its own.

    identities: identity seeds, such as TRAINING_IDENTITIES; people take turns in an order drawn from the seed, so that
    all are seen before one returns. speaking: espeak-ng speech; else movements at random, which need no synthesiser.
    The same arguments give the same clips (of speech: see `made_performances`).
    Raises SynthesiserMissingError where espeak-ng is missing and ValueError for
    no identities, a bad size or a bad length.
    """
    if not len(identities):
        raise ValueError("identities is empty: name at least one identity seed, such as range(0, 100)")
    order = np.random.default_rng(seed).permutation(len(identities))
    renderers: dict[int, MeshRenderer] = {}
    for index, performance in enumerate(_performances(seed, clips, seconds, speaking)):
        identity = made_identity(int(identities[order[index % len(order)]]))
        if identity.seed not in renderers:
            if len(renderers) >= KEPT_PORTRAITS:
                renderers.pop(next(iter(renderers)))
            renderers[identity.seed] = MeshRenderer(draw_portrait(identity, size))
        yield _performed(renderers[identity.seed], identity, performance)


def _performances(seed: int, count: int, seconds: float, speaking: bool) -> Iterator[MadePerformance]:
    if speaking:
        yield from made_performances(count, seed, seconds)
        return
    frames = frames_of_seconds(seconds)
    for index in range(count):
        yield wandering_performance(frames, int(np.random.default_rng([seed, index]).integers(2**31)))
