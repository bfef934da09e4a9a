"""What travels along the wires: frozen dataclasses, each array with its shape, unit and range.

Geometry and motion are numpy (small, on the CPU by nature); network features are torch.
Arrays are made read-only, because a graph hands one object to many nodes.

Head rotation, everywhere: degrees as (pitch, yaw, roll), applied as R = Ry(yaw) Rx(pitch) Rz(roll) in a
right-handed frame with x to the picture's right, y up and z towards the camera. So pitch > 0 looks down,
yaw > 0 turns towards the picture's right, roll > 0 tilts anticlockwise as the viewer sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .low_rank_file import LowRankFile

if TYPE_CHECKING:
    import torch

LANDMARK_COUNT = 478

BLENDSHAPE_NAMES: tuple[str, ...] = (
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight"),
    *("eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft"),
    *("eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight"),
    *("eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight"),
    *("jawForward", "jawLeft", "jawOpen", "jawRight"),
    *("mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight"),
    *("mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight"),
    *("mouthPressLeft", "mouthPressRight", "mouthPucker", "mouthRight", "mouthRollLower"),
    *("mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft", "mouthSmileRight"),
    *("mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight"),
    *("noseSneerLeft", "noseSneerRight", "tongueOut"),
)
"""The 52 ARKit names. The face bundle's network has `_neutral` in place of `tongueOut`."""

BLENDSHAPE_INDEX: dict[str, int] = {name: index for index, name in enumerate(BLENDSHAPE_NAMES)}

BLENDSHAPES = "blendshapes"
IMPLICIT_KEYPOINTS = "implicit_keypoints"
EXPRESSION_SIZE: dict[str, int] = {BLENDSHAPES: len(BLENDSHAPE_NAMES), IMPLICIT_KEYPOINTS: 63}
"""Numbers per frame in `FaceMotion.expression`: 52 coefficients, or 21 keypoint offsets x 3."""

_WAY_TO_SPACE = {
    IMPLICIT_KEYPOINTS: "put a 'Retarget Motion' node in between",
    BLENDSHAPES: "implicit keypoints cannot be turned back: choose LivePortrait in 'Load LivePortrait' and connect it "
    "here, or read the motion without it",
}

EMOTION_NAMES: tuple[str, ...] = ("neutral", "happy", "sad", "angry", "surprised", "disgusted", "fearful")

ProgressCallback = Callable[[int, int], None]
"""Called as (done, total) by long work; whatever it raises (a cancellation) ends the work."""


def frozen_array(values: Any, dtype: type = np.float32) -> np.ndarray:
    """Return `values` as a read-only contiguous array that shares nothing writeable with the caller."""
    array = np.array(values, dtype=dtype, order="C")
    array.setflags(write=False)
    return array


def _expect_shape(owner: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(f"{owner}.{name} has shape {array.shape}, expected {shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{owner}.{name} holds NaN or infinity")


@dataclass(frozen=True)
class HeadPose:
    """A weak-perspective fit of the canonical face to landmarks.

    A canonical point v (centimetres; x right, y up, z to the camera) lands on the picture at
    `scale * R v + translation`, whose x and y are pixels after flipping y.

    rotation: (3,) float32, degrees (pitch, yaw, roll); see the module's convention.
    translation: (3,) float32, pixels, in the flipped frame (x, -y, -z).
    scale: pixels per canonical centimetre, > 0.
    """

    rotation: np.ndarray
    translation: np.ndarray
    scale: float

    def __post_init__(self) -> None:
        for name in ("rotation", "translation"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
            _expect_shape("HeadPose", name, getattr(self, name), (3,))
        if not self.scale > 0:
            raise ValueError(f"HeadPose.scale is {self.scale}, expected a positive number of pixels per cm")


@dataclass(frozen=True)
class Portrait:
    """One face in one picture, ready to be animated.

    frame: (H, W, 3) uint8 RGB, the whole picture.
    landmarks: (478, 3) float32, pixels of `frame` (x right, y down, z away from the camera, same scale).
    blendshapes: (52,) float32 in 0..1, the expression the picture already shows.
    pose: the head pose the picture already shows.
    crop_to_frame: (2, 3) float32 affine from `crop_size` square crop pixels to frame pixels.
    crop_size: side of the square face crop in pixels.
    presence: 0..1, how sure the landmark network is that this is a face; 1 for landmarks given by hand.
    """

    frame: np.ndarray
    landmarks: np.ndarray
    blendshapes: np.ndarray
    pose: HeadPose
    crop_to_frame: np.ndarray
    crop_size: int = 512
    presence: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", frozen_array(self.frame, np.uint8))
        if self.frame.ndim != 3 or self.frame.shape[2] != 3:
            raise ValueError(f"Portrait.frame has shape {self.frame.shape}, expected (height, width, 3)")
        shapes = {"landmarks": (LANDMARK_COUNT, 3), "blendshapes": (52,), "crop_to_frame": (2, 3)}
        for name, shape in shapes.items():
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
            _expect_shape("Portrait", name, getattr(self, name), shape)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture in pixels."""
        return self.frame.shape[1], self.frame.shape[0]


@dataclass(frozen=True)
class PortraitVideo:
    """The same face in every frame of a film that is to be edited; travels where a Portrait does.

    portraits: one for each frame, all of one picture size. fps: frames per second, > 0.
    """

    portraits: tuple[Portrait, ...]
    fps: float

    def __post_init__(self) -> None:
        if not self.portraits:
            raise ValueError("PortraitVideo has no frames")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"PortraitVideo.fps is {self.fps}, expected a positive rate")
        sizes = {portrait.size for portrait in self.portraits}
        if len(sizes) > 1:
            raise ValueError(f"the frames of a PortraitVideo must be of one size, got {sorted(sizes)}")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.portraits[0].size

    def rows(self, frame_count: int) -> np.ndarray:
        """Return (frame_count,) which frame of the film each frame is rendered onto.

        A film that is shorter goes back from its end, and forth again, so that nothing is cut and nothing jumps.
        """
        return back_and_forth(len(self.portraits), frame_count)


def back_and_forth(count: int, frame_count: int) -> np.ndarray:
    """Return (frame_count,) int, each in 0..count - 1: forwards, back from the end and forth again, without a jump."""
    place = np.arange(frame_count) % max(2 * count - 2, 1)
    return np.where(place < count, place, 2 * count - 2 - place)


def portraits_of(portrait: Portrait | PortraitVideo) -> tuple[Portrait, ...]:
    """Return what travels on a PORTRAIT wire, one by one: of a picture, or of each frame of a film."""
    return portrait.portraits if isinstance(portrait, PortraitVideo) else (portrait,)


@dataclass(frozen=True)
class KeypointRest:
    """The reading of implicit keypoints that a track calls rest: what was filmed when its numbers are 0.

    expression: (63,) float32, the 21 keypoints' offsets (x, y, z per point) as the motion extractor gives them.
    rotation: (3,) float32, degrees (pitch, yaw, roll) as the camera sees the head; the module's convention.
    translation: (3,) float32, half sides of the face crop; x right, y up, z to the camera.
    scale: > 0, as the motion extractor gives it.
    """

    expression: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    scale: float

    def __post_init__(self) -> None:
        sizes = {"expression": EXPRESSION_SIZE[IMPLICIT_KEYPOINTS], "rotation": 3, "translation": 3}
        for name, size in sizes.items():
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
            _expect_shape("KeypointRest", name, getattr(self, name), (size,))
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"KeypointRest.scale is {self.scale}, expected a positive number")


@dataclass(frozen=True)
class FaceMotion:
    """A motion track: how a face moves, frame by frame, away from its rest.

    space: "blendshapes" or "implicit_keypoints".
    fps: frames per second, > 0.
    expression: (N, 52) float32 in 0..1, ARKit coefficients where 0 is the relaxed face; or
        (N, 63) float32, the 21 implicit keypoints' offsets (x, y, z per point) minus those at rest.
    rotation: (N, 3) float32, degrees (pitch, yaw, roll) away from the resting pose, in the head's own axes:
        a head at rest turned by R turns to R times this rotation.
    translation: (N, 3) float32; x right, y up, z to the camera. Blendshapes: face units (distance of the outer
        eye corners). Implicit keypoints: half sides of the face crop.
    scale: (N,) float32 > 0, size relative to rest.
    rest: what the driver's rest itself reads, when it is known (implicit keypoints only): absolute driving needs it.
    openings: (N, 3) float32, the driver's own opening ratios (`face.opening_ratios`) of the eye at the picture's
        left, the eye at its right, and the lips, when they are known: retargeting eyes and lips needs them.

    In the blendshape space the head turns and grows about the top of the neck (`face.pose.HEAD_PIVOT`), and
    translation is that point's: with the pivot at rest at p, a point v of the head goes to
    p + translation + scale * R (v - p). So a nod needs no translation, and a nod filmed keeps the neck where it
    was. In the implicit space it is the origin of the canonical keypoints that this is said of.
    """

    space: str
    fps: float
    expression: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    scale: np.ndarray
    rest: KeypointRest | None = None
    openings: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.space not in EXPRESSION_SIZE:
            raise ValueError(f"FaceMotion.space is {self.space!r}, expected one of {sorted(EXPRESSION_SIZE)}")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"FaceMotion.fps is {self.fps}, expected a positive rate")
        count = len(self.expression)
        if count == 0:
            raise ValueError("FaceMotion has no frames")
        size = EXPRESSION_SIZE[self.space]
        shapes = {
            "expression": (count, size),
            "rotation": (count, 3),
            "translation": (count, 3),
            "scale": (count,),
        }
        for name, shape in shapes.items():
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
            _expect_shape("FaceMotion", name, getattr(self, name), shape)
        if not (self.scale > 0).all():
            raise ValueError(f"FaceMotion.scale has a value of {self.scale.min()}, expected all > 0")
        if self.openings is not None:
            object.__setattr__(self, "openings", frozen_array(self.openings))
            _expect_shape("FaceMotion", "openings", self.openings, (count, 3))
        if self.rest is not None and self.space != IMPLICIT_KEYPOINTS:
            raise ValueError("FaceMotion.rest belongs to implicit keypoints, but the track holds blendshapes")

    @classmethod
    def at_rest(cls, frame_count: int, fps: float, space: str = BLENDSHAPES) -> FaceMotion:
        """Return `frame_count` frames in which nothing moves."""
        return cls(
            space=space,
            fps=fps,
            expression=np.zeros((frame_count, EXPRESSION_SIZE[space])),
            rotation=np.zeros((frame_count, 3)),
            translation=np.zeros((frame_count, 3)),
            scale=np.ones(frame_count),
        )

    @property
    def frame_count(self) -> int:
        return len(self.expression)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frame_count / self.fps

    def blendshape(self, name: str) -> np.ndarray:
        """Return one coefficient's track, (N,), by its ARKit name."""
        self.require_space(BLENDSHAPES)
        if name not in BLENDSHAPE_INDEX:
            raise ValueError(f"unknown blendshape {name!r}; the names are {', '.join(BLENDSHAPE_NAMES)}")
        return self.expression[:, BLENDSHAPE_INDEX[name]]

    def require_space(self, space: str) -> None:
        """Raise ValueError unless the track is in `space`."""
        if self.space != space:
            raise ValueError(
                f"this step needs motion in the {space} space but got {self.space}; {_WAY_TO_SPACE[space]}"
            )


@dataclass(frozen=True)
class AudioEmbedding:
    """Features of a sound at a steady rate.

    features: (T, L, C) float32 torch tensor on the CPU: T time steps, L layers, C channels.
    rate: time steps per second (Hz); step i is centred on (i + 0.5) / rate seconds.
    duration: seconds of sound the features describe; steps beyond it describe the silence afterwards.
    encoder: name of the encoder that made them.
    """

    features: torch.Tensor
    rate: float
    duration: float
    encoder: str

    def __post_init__(self) -> None:
        if self.features.ndim != 3 or 0 in self.features.shape:
            raise ValueError(
                f"AudioEmbedding.features has shape {tuple(self.features.shape)}, expected (T, L, C), none of them 0"
            )


STRONGEST_EMOTION = 2.0
"""Largest strength of an emotion; 1 is a natural display."""


@dataclass(frozen=True)
class Emotion:
    """A weighted mix of named emotions, with a strength, constant or over time.

    weights: (K, 7) float32 >= 0, a row per key time over EMOTION_NAMES; each row sums to 1.
    strengths: (K,) float32 in 0..2; 1 is a natural display, 0 is neutral.
    times: (K,) float32 increasing seconds; between keys both are interpolated, outside they are held.
    """

    weights: np.ndarray
    strengths: np.ndarray
    times: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def __post_init__(self) -> None:
        for name in ("weights", "strengths", "times"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
        count = len(self.times)
        _expect_shape("Emotion", "weights", self.weights, (count, len(EMOTION_NAMES)))
        _expect_shape("Emotion", "strengths", self.strengths, (count,))
        if (self.weights < 0).any() or not np.allclose(self.weights.sum(axis=1), 1, atol=1e-3):
            raise ValueError(
                f"Emotion.weights must be >= 0 with rows that sum to 1, got {self.weights.tolist()}"
            )
        if not ((self.strengths >= 0) & (self.strengths <= STRONGEST_EMOTION + 1e-3)).all():
            raise ValueError(
                f"Emotion.strengths must be 0 to {STRONGEST_EMOTION:g}, got {self.strengths.tolist()}"
            )
        if (np.diff(self.times) <= 0).any():
            raise ValueError(f"Emotion.times must increase, got {self.times.tolist()}")

    @classmethod
    def mixed(cls, weights: dict[str, float], strength: float = 1.0) -> Emotion:
        """Return a constant emotion from {name: weight}; weights are normalised to sum 1.

        Raises ValueError for an unknown name or when no weight is positive.
        """
        return cls(weights=emotion_row(weights)[None], strengths=np.array([strength]))

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return (N, 7) float32: the weights times the strength at each of `times` (N,) seconds."""
        scaled = self.weights * self.strengths[:, None]
        columns = [np.interp(times, self.times, scaled[:, index]) for index in range(scaled.shape[1])]
        return np.stack(columns, axis=1).astype(np.float32)


def emotion_row(weights: dict[str, float]) -> np.ndarray:
    """Return {name: weight} as one (7,) float32 row that sums to 1."""
    unknown = sorted(set(weights) - set(EMOTION_NAMES))
    if unknown:
        raise ValueError(
            f"unknown emotion {', '.join(map(repr, unknown))}; known: {', '.join(EMOTION_NAMES)}"
        )
    row = np.array([max(0.0, float(weights.get(name, 0.0))) for name in EMOTION_NAMES], np.float32)
    if row.sum() <= 0:
        raise ValueError(f"no emotion has a positive weight: {weights}")
    return row / row.sum()


@dataclass(frozen=True)
class ModelHandle:
    """A key into the shared model cache, not a module: the wire never pins memory.

    name: the manifest row, such as "pocket".
    path: the weight file.
    dtype: "float32", "float16" or "bfloat16".
    device: "cpu", "cuda:0", ... or "auto" for the host's choice.
    cpu_offload: keep the weights in main memory and bring each layer to the device only while it computes: for
    models larger than the device, at the price of speed.
    further_paths: the other weight files of a model that is made of several.
    stamp: tells versions of a file apart that is written again under its name; empty for published files.
    eight_bits: keep the weights of large linear layers in 8 bits: half the memory, and approximate; of models that can.
    low_rank_files: LoRA files that are merged into the weights when they are loaded, in order; of models that can.
    """

    name: str
    path: str
    dtype: str = "float32"
    device: str = "auto"
    cpu_offload: bool = False
    further_paths: tuple[str, ...] = ()
    stamp: str = ""
    eight_bits: bool = False
    low_rank_files: tuple[LowRankFile, ...] = ()


MESH_RENDERER = "mesh"
LIVEPORTRAIT_RENDERER = "liveportrait"


@dataclass(frozen=True)
class RendererModels:
    """What draws a portrait, and so the space its motion is in: the mesh renderer or LivePortrait's networks.

    kind: "mesh" (blendshapes; no weights, every handle is None) or "liveportrait" (implicit keypoints).
    appearance: the appearance feature extractor. motion_extractor: reads implicit keypoints from pictures.
    frame_generator: the warping module and the generator. retargeting: stitching, eye and lip networks.
    """

    kind: str = MESH_RENDERER
    appearance: ModelHandle | None = None
    motion_extractor: ModelHandle | None = None
    frame_generator: ModelHandle | None = None
    retargeting: ModelHandle | None = None

    def __post_init__(self) -> None:
        handles = (self.appearance, self.motion_extractor, self.frame_generator, self.retargeting)
        if self.kind not in (MESH_RENDERER, LIVEPORTRAIT_RENDERER):
            raise ValueError(f"RendererModels.kind is {self.kind!r}, expected 'mesh' or 'liveportrait'")
        if self.kind == LIVEPORTRAIT_RENDERER and None in handles:
            raise ValueError("RendererModels of LivePortrait need all four models")

    @property
    def space(self) -> str:
        """The space of the motion it renders."""
        return BLENDSHAPES if self.kind == MESH_RENDERER else IMPLICIT_KEYPOINTS


POCKET, KDTALKER, TAKIN_ADA = "pocket", "kdtalker", "takin_ada"


@dataclass(frozen=True)
class KeypointDiffusionModels:
    """What turns speech into motion, and what it listens with.

    kind: "pocket" (blendshapes, hears log-mel), "kdtalker" (implicit keypoints, hears Wav2Lip's features) or
    "takin_ada" (either, hears HuBERT or has a listener of its own for log-mel).
    denoiser: the model; of the published KDTalker, `further_paths` holds the statistics file. speech_encoder: None
    where the features need no network, or the published one will do. compiled: let torch.compile work on the denoiser
    first. space: of the motion it makes. audio_encoder: whose features it hears;
    empty is what its kind hears.
    """

    kind: str
    denoiser: ModelHandle
    speech_encoder: ModelHandle | None = None
    compiled: bool = False
    space: str = BLENDSHAPES
    audio_encoder: str = ""

    def __post_init__(self) -> None:
        if self.kind not in (POCKET, KDTALKER, TAKIN_ADA):
            raise ValueError(
                f"KeypointDiffusionModels.kind is {self.kind!r}, expected one of {POCKET}, {KDTALKER}, {TAKIN_ADA}"
            )
        if self.kind == KDTALKER and self.speech_encoder is None:
            raise ValueError("KeypointDiffusionModels of KDTalker need a speech encoder")
