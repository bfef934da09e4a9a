"""A small network that tells made people apart by their faces; it measures likeness, it is no product.

It is fitted by contrast: two frames of a person, of different clips where there are several, are to be more alike than
frames of two people. It sees the middle of the face alone, so that neither clothes nor background count.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

FACE_ROWS, FACE_COLUMNS = 36, 28
"""Pixels of the middle of a face, in pictures of 64 pixels."""
WIDTHS = (3, 24, 48, 64)
"""Channels before and after each convolution, which halve the size."""
GROUPS = 8
EMBEDDED = 32
"""Numbers of an embedding."""
TEMPERATURE = 0.1
"""Likenesses are divided by it before one is chosen among the batch's people."""
PEOPLE_AT_ONCE = 32
LEARNING_RATE = 1e-3
READ_AT_ONCE = 256


class IdentityReader(nn.Module):
    """(B, 3, 36, 28) faces in 0..1 to (B, 32) embeddings of length 1."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(WIDTHS):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1),
                nn.GroupNorm(GROUPS, after),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.features = nn.Linear(2 * WIDTHS[-1], EMBEDDED)

    def forward(self, faces: Tensor) -> Tensor:
        """Return (B, 32) embeddings, of length 1, of faces (B, 3, 36, 28) in 0..1."""
        seen = self.body(faces)
        summed = torch.cat([seen.mean(dim=(2, 3)), seen.amax(dim=(2, 3))], dim=1)
        return F.normalize(self.features(summed), dim=1)

    @torch.no_grad()
    def person(self, faces: np.ndarray) -> np.ndarray:
        """Return (32,) float32 of length 1: whom faces (N, 36, 28, 3) uint8 show, the mean over them.

        Raises ValueError for faces of another shape or dtype, or none.
        """
        if faces.shape[1:] != (FACE_ROWS, FACE_COLUMNS, 3) or faces.dtype != np.uint8 or not len(faces):
            raise ValueError(
                f"faces are {faces.dtype} {faces.shape}, expected uint8 (N, {FACE_ROWS}, {FACE_COLUMNS}, 3), N >= 1"
            )
        parts = [faces[first : first + READ_AT_ONCE] for first in range(0, len(faces), READ_AT_ONCE)]
        found = torch.cat([self(_pictures(part)) for part in parts])
        return F.normalize(found.mean(dim=0), dim=0).numpy()


def _pictures(faces: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(faces.transpose(0, 3, 1, 2))).float() / 255


def face_middles(frames: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Return (N, 36, 28, 3) uint8: of each frame what surrounds a point; beyond the edge its pixels are repeated.

    frames: (N, H, W, 3) uint8. middles: (N, 2) x and y in pixels; those outside a frame are brought to its edge.
    """
    down, right = FACE_ROWS // 2, FACE_COLUMNS // 2
    padded = np.pad(frames, ((0, 0), (down, down), (right, right), (0, 0)), mode="edge")
    places = np.clip(np.rint(middles), 0, np.array(frames.shape[2:0:-1]) - 1).astype(int)
    return np.stack(
        [
            one[top : top + FACE_ROWS, left : left + FACE_COLUMNS]
            for one, (left, top) in zip(padded, places, strict=True)
        ]
    )


def contrastive_loss(first: Tensor, second: Tensor) -> Tensor:
    """Return the cross-entropy of finding each person's second embedding by the first among all, and back.

    first, second: (B, E) of length 1, of B people in one order.
    """
    likeness = first @ second.T / TEMPERATURE
    own = torch.arange(len(first))
    return (F.cross_entropy(likeness, own) + F.cross_entropy(likeness.T, own)) / 2


def fitted_identity_reader(
    people: Sequence[Sequence[np.ndarray]], steps: int = 600, seed: int = 0
) -> IdentityReader:
    """Return a reader fitted to people, in evaluation mode; the same arguments give the same one.

    people: of each person the faces (N, 36, 28, 3) uint8 of one or several clips.
    Raises ValueError for fewer than two people, a person without a clip, or steps below 1.
    """
    if len(people) < 2 or not all(people) or steps < 1:
        raise ValueError(
            f"there are {len(people)} people and {steps} steps: a reader learns from at least two people, each with a "
            "clip, in at least one step"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = IdentityReader()
    optimiser = torch.optim.Adam(reader.parameters(), lr=LEARNING_RATE)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 3 * (1 - step / steps))
        chosen = rng.permutation(len(people))[:PEOPLE_AT_ONCE]
        pairs = [_drawn_pair(people[one], rng) for one in chosen]
        embedded = reader(_pictures(np.concatenate([np.stack(views) for views in zip(*pairs, strict=True)])))
        loss = contrastive_loss(*embedded.chunk(2))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return reader.eval().requires_grad_(False)


def _drawn_pair(clips: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Return two faces of a person, mirrored or not, of different clips where there are several."""
    order = rng.permutation(len(clips))
    faces = (clips[order[0]], clips[order[1 % len(clips)]])
    drawn = [one[int(rng.integers(len(one)))] for one in faces]
    return [one[:, ::-1] if rng.random() < 0.5 else one for one in drawn]


def likeness(person: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """Return the mean cosine, -1..1, of a person's embedding (E,) with others'. Raises ValueError for no others."""
    if not len(others):
        raise ValueError("there is nobody to compare with")
    return float(np.mean([person @ other for other in others]))
