"""Face landmarks, blendshapes and presence by the official MediaPipe bundle, run with LiteRT.

The bundle `face_landmarker.task` is a zip of three networks: BlazeFace (see detector.py), the 478-point face
mesh on a 256x256 crop, and the blendshape network on 146 of those points.
"""

from __future__ import annotations

import math
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..types import BLENDSHAPE_NAMES, LANDMARK_COUNT, frozen_array
from .crop import apply_affine, crop_face, square_crop_to_frame
from .detector import INPUT_SIZE as DETECTOR_SIZE
from .detector import Detections, centre_score, intersection_over_union, search_levels
from .topology import BLENDSHAPE_POINTS, EYE_OUTER_CORNER_LEFT, EYE_OUTER_CORNER_RIGHT, MESH_POINT_COUNT

if TYPE_CHECKING:
    from collections.abc import Iterable

DETECTOR_MEMBER = "face_detector.tflite"
LANDMARKS_MEMBER = "face_landmarks_detector.tflite"
BLENDSHAPES_MEMBER = "face_blendshapes.tflite"

CROP_SIZE = 256
REGION_SCALE = 1.5
"""Side of the landmark network's square over the larger side of the face's box."""
PRESENCE_THRESHOLD = 0.5
LOOKS = ((1.3, False), (2.0, False), (3.0, False), (2.0, True), (3.0, True))
"""How a candidate is looked at again: patch side over the face's box, and whether mirrored."""
CERTAINTY_THRESHOLD = 0.56
TILE_CERTAINTY_THRESHOLD = 0.78
"""Mean detector score over the looks that a face must reach, found in the whole picture or in a tile.

Measured: faces of photos, paintings and a statue, also grey, dark, blurred, noisy, in sunglasses or cut by a
quarter, 0.79 to 0.95 with few exceptions, half-hidden ones from 0.47; what the networks take for faces in 432
faceless pictures, at most 0.73 in tiles. The mesh network's presence does not tell them apart: it is near 1
for both.
"""
BOX_SHARES = (1.0, 0.8, 0.6)
"""A box drawn by hand may hold the whole head; the face proper is tried at these shares of it."""
SAME_FACE_OVERLAP = 0.4
SMALLEST_PICTURE = 16
"""Pixels; in a picture with a shorter side there is nothing to find."""


class FaceNotFoundError(ValueError):
    """There is no face where one is needed; the message says where, and what to do."""


@dataclass(frozen=True)
class DetectedFace:
    """One face in one frame.

    landmarks: (478, 3) float32 pixels of the frame; x right, y down, z away from the camera, at the scale of
    x.
    blendshapes: (52,) float32 0..1 in the order of BLENDSHAPE_NAMES; the network knows no tongueOut, which
    is 0.
    presence: 0..1, how sure the network is that its crop shows a face.
    box: x, y, width, height of the landmarks in pixels.
    """

    landmarks: np.ndarray
    blendshapes: np.ndarray
    presence: float
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "landmarks", frozen_array(self.landmarks))
        object.__setattr__(self, "blendshapes", frozen_array(self.blendshapes))

    def moved(self, x: float, y: float) -> DetectedFace:
        """Return the face in a frame whose origin lies at -x, -y of this one's, in pixels."""
        box = (self.box[0] + x, self.box[1] + y, self.box[2], self.box[3])
        landmarks = self.landmarks + np.array([x, y, 0], np.float32)
        return DetectedFace(landmarks, self.blendshapes, self.presence, box)

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        return self.box[2] * self.box[3]

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, x and y in pixels."""
        return self.box[0] + self.box[2] / 2, self.box[1] + self.box[3] / 2


@dataclass(frozen=True)
class FaceRegion:
    """The rotated square the landmark network looks at: centre, side in pixels, degrees clockwise."""

    centre: tuple[float, float]
    side: float
    angle: float

    @classmethod
    def from_box(cls, box: Iterable[float], angle: float = 0.0) -> FaceRegion:
        """Return the region around a face's box x, y, width, height."""
        x, y, width, height = (float(value) for value in box)
        return cls((x + width / 2, y + height / 2), REGION_SCALE * max(width, height), angle)

    @classmethod
    def from_landmarks(cls, landmarks: np.ndarray) -> FaceRegion:
        """Return the region around landmarks (478, 3), turned with the line between the outer eye corners."""
        eyes = landmarks[EYE_OUTER_CORNER_LEFT, :2] - landmarks[EYE_OUTER_CORNER_RIGHT, :2]
        return cls.from_box(landmarks_box(landmarks), _direction(eyes))

    @classmethod
    def from_detection(cls, found: Detections, index: int) -> FaceRegion:
        """Return the region around a detected face, turned with the line between its eyes."""
        return cls.from_box(
            found.boxes[index], _direction(found.keypoints[index, 1] - found.keypoints[index, 0])
        )


def _direction(vector: np.ndarray) -> float:
    return math.degrees(math.atan2(vector[1], vector[0]))


def landmarks_box(landmarks: np.ndarray) -> tuple[float, float, float, float]:
    """Return x, y, width, height around all landmarks, in pixels."""
    low, high = landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


class FaceLandmarker:
    """The three networks of the bundle, loaded once; calls from several threads take turns."""

    def __init__(self, bundle: str | Path, threads: int = 1) -> None:
        """Load the bundle at path `bundle`.

        Raises OSError when it cannot be read, ValueError when it is not the face landmark bundle or LiteRT
        is missing.
        """
        members = _read_bundle(Path(bundle))
        self._detector = _Network(members[DETECTOR_MEMBER], threads)
        self._mesh = _Network(members[LANDMARKS_MEMBER], threads)
        self._blendshapes = _Network(members[BLENDSHAPES_MEMBER], threads)
        self._turn = threading.Lock()

    def detect(
        self, frame: np.ndarray, max_faces: int = 10, at_least: int = 1, search_tiles: bool = True
    ) -> list[DetectedFace]:
        """Return the faces of an (H, W, 3) uint8 RGB frame, largest first, at most `max_faces`.

        With `search_tiles`, tiles are searched too, coarse to fine, until `at_least` faces are found. A face
        counts only if the landmark network, too, is sure of it, and the detector again in closer looks, so
        that the search invents none.
        Empty when there is none.
        """
        frame = checked_frame(frame)
        if min(frame.shape[:2]) < SMALLEST_PICTURE:
            return []
        faces: list[DetectedFace] = []
        with self._turn:
            for level, found in enumerate(search_levels(frame, self._run_detector)):
                threshold = TILE_CERTAINTY_THRESHOLD if level else CERTAINTY_THRESHOLD
                for index in range(len(found)):
                    face = self._refined(frame, FaceRegion.from_detection(found, index))
                    if (
                        face is None
                        or _already_known(face, faces)
                        or self._certainty(frame, face) < threshold
                    ):
                        continue
                    faces.append(face)
                if len(faces) >= at_least or not search_tiles:
                    break
        return sorted(faces, key=lambda face: -face.area)[:max_faces]

    def detect_in_box(self, frame: np.ndarray, box: Iterable[float]) -> DetectedFace | None:
        """Return the face inside a box x, y, width, height in pixels drawn by hand, or None.

        The box may be loose, around a whole head. If the detector sees no face in it, the landmark network is
        asked nevertheless: the person who drew the box saw one.
        """
        frame = checked_frame(frame)
        x, y, width, height = (float(value) for value in box)
        left, top = max(0, math.floor(x)), max(0, math.floor(y))
        window = frame[top : math.ceil(y + height), left : math.ceil(x + width)]
        faces = self.detect(window, search_tiles=False) if window.size else []
        if faces:
            return self.track(frame, faces[0].moved(left, top))  # once more, with what lies around the box
        with self._turn:
            for share in BOX_SHARES:
                region = FaceRegion(
                    (x + width / 2, y + height / 2), REGION_SCALE * share * max(width, height), 0
                )
                face = self._refined(frame, region, passes=3)  # one pass more than a detected face to settle
                if face is not None:
                    return face
        return None

    def track(self, frame: np.ndarray, previous: DetectedFace) -> DetectedFace | None:
        """Return the face where the previous frame of a video had it, or None when it is not there."""
        frame = checked_frame(frame)
        with self._turn:
            return self._read_face(frame, FaceRegion.from_landmarks(previous.landmarks))

    def _refined(self, frame: np.ndarray, region: FaceRegion, passes: int = 2) -> DetectedFace | None:
        """Read the face in a region, then again in the region its own landmarks give, as tracking does."""
        face = None
        for _ in range(passes):
            face = self._read_face(frame, region)
            if face is None:
                return None
            region = FaceRegion.from_landmarks(face.landmarks)
        return face

    def _certainty(self, frame: np.ndarray, face: DetectedFace) -> float:
        """Return the detector's mean score 0..1 over several upright looks at a face."""
        region = FaceRegion.from_landmarks(face.landmarks)
        scores = []
        for scale, mirrored in LOOKS:
            side = scale * max(face.box[2:])
            crop_to_frame = square_crop_to_frame(region.centre, side, region.angle, DETECTOR_SIZE)
            patch = crop_face(frame, crop_to_frame, DETECTOR_SIZE)
            scores.append(centre_score(patch[:, ::-1] if mirrored else patch, self._run_detector))
        return sum(scores) / len(scores)

    def _read_face(self, frame: np.ndarray, region: FaceRegion) -> DetectedFace | None:
        crop_to_frame = square_crop_to_frame(region.centre, region.side, region.angle, CROP_SIZE)
        crop = crop_face(frame, crop_to_frame, CROP_SIZE)
        outputs = self._mesh(crop[None].astype(np.float32) / 255)
        presence = 1 / (1 + math.exp(-min(100.0, max(-100.0, float(outputs[1].ravel()[0])))))
        if presence < PRESENCE_THRESHOLD:
            return None
        landmarks = apply_affine(crop_to_frame, outputs[0].reshape(LANDMARK_COUNT, 3))
        box = landmarks_box(landmarks[:MESH_POINT_COUNT])
        if not (np.isfinite(landmarks).all() and box[2] > 0 and box[3] > 0):
            return None
        return DetectedFace(landmarks, self._read_blendshapes(landmarks), presence, box)

    def _read_blendshapes(self, landmarks: np.ndarray) -> np.ndarray:
        """Return (52,) in our order: `_neutral`, the network's first, gives way to our last, tongueOut."""
        points = landmarks[list(BLENDSHAPE_POINTS), :2][None].astype(np.float32)
        values = self._blendshapes(points)[0].ravel()
        ordered = np.zeros(len(BLENDSHAPE_NAMES), np.float32)
        ordered[:-1] = np.clip(values[1:], 0, 1)
        return ordered

    def _run_detector(self, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        regressors, logits = self._detector(canvas.astype(np.float32))
        return regressors[0], logits.ravel()


def _already_known(face: DetectedFace, faces: list[DetectedFace]) -> bool:
    if not faces:
        return False
    boxes = np.array([known.box for known in faces])
    return bool((intersection_over_union(np.array(face.box), boxes) > SAME_FACE_OVERLAP).any())


def checked_frame(frame: np.ndarray) -> np.ndarray:
    """Return the frame, contiguous, or raise ValueError unless it is (H, W, 3) uint8 with H, W > 0."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        described = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"expected a frame as uint8 RGB (height, width, 3), got {described}")
    if 0 in frame.shape:
        raise ValueError(f"the frame has no pixels: {frame.shape[1]} x {frame.shape[0]}")
    return np.ascontiguousarray(frame)


class _Network:
    """A LiteRT network with one input."""

    def __init__(self, model: bytes, threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise ValueError(
                "finding faces needs the package ai-edge-litert: pip install ai-edge-litert "
                "(or give the portrait's landmarks by hand)"
            ) from error
        self._interpreter = Interpreter(model_content=model, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [output["index"] for output in self._interpreter.get_output_details()]

    def __call__(self, values: np.ndarray) -> list[np.ndarray]:
        self._interpreter.set_tensor(self._input, values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


def _read_bundle(path: Path) -> dict[str, bytes]:
    names = (DETECTOR_MEMBER, LANDMARKS_MEMBER, BLENDSHAPES_MEMBER)
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"{path} is not the MediaPipe face landmark bundle ({error}); it should be "
            f"face_landmarker.task, a zip that holds {', '.join(names)}"
        ) from error
