"""Where faces are: the BlazeFace short-range network, and a search through tiles for faces too small for it.

The network sees 128x128 pixels and finds faces from about a sixth of the picture's side. Boxes and keypoints
are in frame pixels throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

INPUT_SIZE = 128
SCORE_THRESHOLD = 0.5
OVERLAP_THRESHOLD = 0.3
SEARCH_SIDE = 1536
"""Larger pictures are searched on a copy reduced to this longer side."""
TILE_DIVISORS = (2, 4)
"""Tiles are squares of the longer side over each of these, coarse first, laid at half-tile steps."""
SMALLEST_TILE = 96
MIDDLE_RADIUS = 0.12
"""Of a patch's side: how far from its middle a face may be to count as the one in the middle."""

RawDetector = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps (1, 128, 128, 3) float32 in -1..1 to regressors (896, 16) and score logits (896,)."""


@dataclass(frozen=True)
class Detections:
    """Faces found by the detector, best score first.

    boxes: (N, 4) float64 x, y, width, height. keypoints: (N, 6, 2): the eye on the picture's left, the one
    on its right, nose tip, mouth, the two ears. scores: (N,) 0..1.
    """

    boxes: np.ndarray
    keypoints: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def detect_faces(frame: np.ndarray, network: RawDetector) -> Detections:
    """Return the faces the network sees in the whole (H, W, 3) uint8 RGB frame."""
    canvas, scale, offset = letterbox(frame)
    boxes, keypoints, scores = _decode(*network(canvas))
    boxes[:, :2] = (boxes[:, :2] * INPUT_SIZE - offset) / scale
    boxes[:, 2:] = boxes[:, 2:] * INPUT_SIZE / scale
    keypoints = (keypoints * INPUT_SIZE - offset) / scale
    return merge_overlapping(Detections(boxes, keypoints, scores))


def search_levels(frame: np.ndarray, network: RawDetector) -> Iterator[Detections]:
    """Yield what is found at the full picture, then in ever smaller tiles; the caller stops when content."""
    height, width = frame.shape[:2]
    reduction = min(1.0, SEARCH_SIDE / max(height, width))
    if reduction < 1:
        size = (max(1, round(width * reduction)), max(1, round(height * reduction)))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    yield _scaled(detect_faces(frame, network), 1 / reduction)
    for divisor in TILE_DIVISORS:
        side = max(frame.shape[:2]) // divisor
        if side < SMALLEST_TILE:
            return
        yield _scaled(_detect_in_tiles(frame, network, side), 1 / reduction)


def _detect_in_tiles(frame: np.ndarray, network: RawDetector, side: int) -> Detections:
    found = []
    for left, top in tile_corners(frame.shape[1], frame.shape[0], side):
        part = detect_faces(frame[top : top + side, left : left + side], network)
        shift = np.array([left, top], np.float64)
        boxes = part.boxes + np.concatenate([shift, [0, 0]])
        found.append(Detections(boxes, part.keypoints + shift, part.scores))
    return merge_overlapping(_joined(found))


def centre_score(patch: np.ndarray, network: RawDetector) -> float:
    """Return how sure the network is, 0..1, that a face sits in the middle of a square uint8 patch."""
    regressors, logits = network(letterbox(patch)[0])
    centres = regressors[:, :2] / INPUT_SIZE + anchor_centres()
    in_middle = np.linalg.norm(centres - 0.5, axis=1) < MIDDLE_RADIUS
    return float(_sigmoid(logits[in_middle]).max(initial=0.0))


def tile_corners(width: int, height: int, side: int) -> list[tuple[int, int]]:
    """Return (left, top) of square tiles covering a picture at half-tile steps, flush with its far edges."""

    def starts(length: int) -> list[int]:
        last = max(0, length - side)
        count = -(-last // max(1, side // 2)) + 1
        return [round(last * index / max(1, count - 1)) for index in range(count)]

    return [(left, top) for top in starts(height) for left in starts(width)]


def letterbox(frame: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the frame fitted into the network's square: (1, 128, 128, 3) float32 -1..1, its scale, its
    offset.

    A frame point p lies at scale * p + offset on the canvas; the rest of the canvas is black.
    """
    height, width = frame.shape[:2]
    scale = INPUT_SIZE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.float32)
    left, top = (INPUT_SIZE - size[0]) // 2, (INPUT_SIZE - size[1]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(frame, size, interpolation=interpolation)
    return canvas[None] / 127.5 - 1, scale, np.array([left, top], np.float64)


def anchor_centres() -> np.ndarray:
    """Return (896, 2) centres x, y in 0..1: two anchors per cell of a 16x16 grid, six per cell of 8x8."""
    grids = []
    for cells, anchors in ((16, 2), (8, 6)):
        ticks = (np.arange(cells) + 0.5) / cells
        grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
        grids.append(np.repeat(grid, anchors, axis=0))
    return np.concatenate(grids)


def _decode(regressors: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes (N, 4) and keypoints (N, 6, 2) in 0..1 of the canvas, and scores, of anchors that fire."""
    scores = _sigmoid(logits)
    kept = np.flatnonzero(scores >= SCORE_THRESHOLD)
    anchors = anchor_centres()[kept]
    values = regressors[kept].astype(np.float64).reshape(-1, 8, 2) / INPUT_SIZE
    centres, sizes = values[:, 0] + anchors, values[:, 1]
    return (
        np.concatenate([centres - sizes / 2, sizes], axis=1),
        values[:, 2:] + anchors[:, None],
        scores[kept],
    )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -100, 100)))


def merge_overlapping(found: Detections) -> Detections:
    """Return one detection per group of overlapping ones: their score-weighted mean, with the best score."""
    remaining = np.argsort(-found.scores, kind="stable")
    boxes, keypoints, scores = [], [], []
    while len(remaining):
        overlaps = intersection_over_union(found.boxes[remaining[0]], found.boxes[remaining])
        overlaps[0] = 1.0
        group = remaining[overlaps > OVERLAP_THRESHOLD]
        weights = found.scores[group]
        boxes.append(np.average(found.boxes[group], axis=0, weights=weights))
        keypoints.append(np.average(found.keypoints[group], axis=0, weights=weights))
        scores.append(weights[0])
        remaining = remaining[overlaps <= OVERLAP_THRESHOLD]
    return Detections(
        np.array(boxes).reshape(-1, 4), np.array(keypoints).reshape(-1, 6, 2), np.array(scores).reshape(-1)
    )


def intersection_over_union(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return (N,) overlaps 0..1 of one (4,) box x, y, width, height with (N, 4) boxes."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    total = box[2:].prod() + boxes[:, 2:].prod(axis=1) - shared
    return np.divide(shared, total, out=np.zeros(len(boxes)), where=total > 0)


def _joined(parts: list[Detections]) -> Detections:
    fields = zip(*[(part.boxes, part.keypoints, part.scores) for part in parts], strict=True)
    return Detections(*(np.concatenate(field) for field in fields))


def _scaled(found: Detections, scale: float) -> Detections:
    return Detections(found.boxes * scale, found.keypoints * scale, found.scores)
