"""What a motion space learnt, measured on made heads it never saw: `python -m ....takin_ada_motion_space_evaluation`.

Four questions, the first two about equation 1 and the third about equation 2 of Takin-ADA (arXiv 2410.14283):
do canonical keypoints stay as the expression changes; does the source's expression leak into the output; do eyes and
lips of the output follow the driver; how close is the output to the frame it reenacts.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core_models.rendering.motion_space import MotionSpaceNetworks, SpaceMotion, load_motion_space
from .correlation import correlation
from .eye_regressor import EyeRegressor, fitted_eye_regressor
from .opening_regressor import OpeningRegressor, fitted_regressor, openings_of
from .takin_ada_frame_sources import made_frames
from .takin_ada_frames import FrameSet, pictures_of, read_frames
from .takin_ada_motion_space import network_pictures
from .takin_ada_motion_space_run import read_motion_space_checkpoint

logger = logging.getLogger(__name__)

EYE_POINTS, LIP_POINTS = ((0, 2, 1), (3, 5, 4)), (6, 7, 8, 9)
"""Guided keypoints: of either eye a corner, the upper lid, the other corner; of the lips the corners, top, bottom."""
BATCH = 16
PROBE_RIDGE = 1e-3
"""Of the linear probe, as a share of the features' mean square."""


@dataclass(frozen=True)
class CanonicalSpread:
    """Standard deviations of canonical keypoints in half sides, averaged over keypoints and axes.

    within: over the frames of one person, whose expression and pose change; mean over persons. between: over persons,
    of their mean canonical keypoints. deformation: of the deformation over a person's frames.
    """

    within: float
    between: float
    deformation: float

    @property
    def ratio(self) -> float:
        """within / between: near 0 for keypoints that tell persons apart and nothing else."""
        return self.within / max(self.between, 1e-12)


@dataclass(frozen=True)
class Leakage:
    """What changes when only the source's expression does, its pose and the driver being the same.

    source, output: mean absolute change of the pictures (0..1). keypoints: of the driving keypoints, half sides.
    through_canonical: of the output when the source picture stays too and only the canonical keypoints that the driver
    is placed by are those of the other expression: what equation 1 can help, apart from what the picture carries over.
    """

    source: float
    output: float
    keypoints: float
    through_canonical: float

    @property
    def ratio(self) -> float:
        """output / source: 0 for none, 1 when the output changes as much as the source."""
        return self.output / max(self.source, 1e-12)


@dataclass(frozen=True)
class Following:
    """Correlation over frames of driver and output, mean over persons, of lip and eye opening.

    lips, eyes: read off the output's pictures by the regressor, against the driver's true openings. real_lips,
    real_eyes: the same of the driver's own pictures, which bounds them. keypoint_lips, keypoint_eyes: openings
    measured between the guided driving keypoints.
    """

    lips: float
    eyes: float
    real_lips: float
    real_eyes: float
    keypoint_lips: float
    keypoint_eyes: float


@dataclass(frozen=True)
class EyeFollowing:
    """Correlation with the driver's true eye opening, within persons, read off patches at the driver's eye corners.

    output: of the output driven by the same person. real: of the driver's own pictures, which bounds it.
    """

    output: float
    real: float


@dataclass(frozen=True)
class Reconstruction:
    """Self-reenactment: mean absolute difference (0..1) and PSNR in decibels; still: of the source left as it is."""

    difference: float
    psnr: float
    still_difference: float
    still_psnr: float


@torch.no_grad()
def motions_of(networks: MotionSpaceNetworks, pictures: Tensor) -> SpaceMotion:
    """Return the motion of many pictures (N, 3, S, S)."""
    size = networks.parameters_used.picture_size
    parts = [networks.motion(network_pictures(part, size)) for part in pictures.split(BATCH)]
    joined = (
        None if values[0] is None else torch.cat(values) for values in list(zip(*parts, strict=True))[:-1]
    )
    return SpaceMotion(*joined, parts[0].transform)


@torch.no_grad()
def driven(networks: MotionSpaceNetworks, sources: Tensor, drivers: Tensor) -> tuple[Tensor, Tensor]:
    """Return sources moved as drivers, both (N, 3, S, S): pictures (N, 3, O, O) and driving keypoints (N, K, 3)."""
    size, pictures, keypoints = networks.parameters_used.picture_size, [], []
    for source, driver in zip(sources.split(BATCH), drivers.split(BATCH), strict=True):
        seen = network_pictures(source, size)
        still, moving = (motions_of(networks, each) for each in (source, driver))
        keypoints.append(networks.keypoints(moving, still.canonical))
        pictures.append(networks.render_keypoints(seen, networks.keypoints(still), keypoints[-1]))
    return torch.cat(pictures), torch.cat(keypoints)


def _by_person(frames: FrameSet) -> list[np.ndarray]:
    return [np.flatnonzero(frames.persons == person) for person in np.unique(frames.persons)]


def canonical_spread(networks: MotionSpaceNetworks, frames: FrameSet) -> CanonicalSpread:
    """Return how far canonical keypoints spread within and between the persons of a set."""
    motion = motions_of(networks, pictures_of(frames, np.arange(len(frames))))
    canonical, deformation = motion.canonical.numpy(), motion.deformation.numpy()
    groups = _by_person(frames)
    means = np.stack([canonical[index].mean(axis=0) for index in groups])
    return CanonicalSpread(
        within=float(np.mean([canonical[index].std(axis=0).mean() for index in groups])),
        between=float(means.std(axis=0).mean()),
        deformation=float(np.mean([deformation[index].std(axis=0).mean() for index in groups])),
    )


def leakage(networks: MotionSpaceNetworks, still_heads: FrameSet) -> Leakage:
    """Return how much of the source's expression shows in the output.

    still_heads: persons whose heads keep their pose, at least three frames of each. The first frame of a person drives,
    each further one is a source beside the one after it. Raises ValueError for fewer frames.
    """
    changes: list[tuple[float, float, float]] = []
    for index in _by_person(still_heads):
        if len(index) < 3:
            raise ValueError(f"a person has {len(index)} frames, expected at least 3")
        sources = pictures_of(still_heads, index[1:])
        drivers = pictures_of(still_heads, np.repeat(index[:1], len(index) - 1))
        outputs, keypoints = driven(networks, sources, drivers)
        exchanged = _drawn_by(networks, sources[:1], keypoints)
        parts = (sources, outputs, keypoints, exchanged)
        changes.append(tuple(float(v.diff(dim=0).abs().mean()) for v in parts))
    return Leakage(*(float(v) for v in np.mean(changes, axis=0)))


@torch.no_grad()
def _drawn_by(networks: MotionSpaceNetworks, source: Tensor, keypoints: Tensor) -> Tensor:
    """Return one source picture (1, 3, S, S) drawn at each of the driving keypoints (N, K, 3)."""
    picture = network_pictures(source, networks.parameters_used.picture_size)
    still = networks.keypoints(networks.motion(picture))
    return torch.cat([networks.render_keypoints(picture, still, one[None]) for one in keypoints])


def following(
    networks: MotionSpaceNetworks, frames: FrameSet, regressor: OpeningRegressor, cross: bool
) -> Following:
    """Return how eyes and lips of the output follow the driver.

    Each person's first frame is the source. cross: it is driven by the next person, not by itself.
    """
    groups = _by_person(frames)
    rows: list[np.ndarray] = []
    for place, index in enumerate(groups):
        source = groups[place - 1][0] if cross else index[0]
        drivers = pictures_of(frames, index)
        outputs, keypoints = driven(networks, pictures_of(frames, np.full(len(index), source)), drivers)
        truth = openings_of(frames)[index]
        read = (regressor.read(network_pictures(p, regressor.size)) for p in (outputs, drivers))
        measured = (*read, keypoint_openings(keypoints.numpy()))
        rows.append(np.concatenate([correlation(values, truth) for values in measured]))
    return Following(*(float(v) for v in np.mean(rows, axis=0)))


def eye_following(networks: MotionSpaceNetworks, frames: FrameSet, regressor: EyeRegressor) -> EyeFollowing:
    """Return how the eyes of the output follow the driver's: the same person, whose first frame is the source."""
    rows: list[list[float]] = []
    for index in _by_person(frames):
        drivers, corners = pictures_of(frames, index), frames.landmarks[index]
        outputs, _ = driven(networks, pictures_of(frames, np.full(len(index), index[0])), drivers)
        truth = openings_of(frames)[index, 1]
        rows.append([float(correlation(regressor.read(p, corners), truth)) for p in (outputs, drivers)])
    return EyeFollowing(*(float(value) for value in np.mean(rows, axis=0)))


def keypoint_openings(keypoints: np.ndarray) -> np.ndarray:
    """Return (N, 2) openings of lips and eyes between guided keypoints (N, K, 3), over their widths.

    An eye has no guided lower lid, so its opening is the upper lid's distance from the line between the corners.
    """
    points = keypoints[..., :2].astype(np.float64)
    left, right, top, bottom = (points[:, i] for i in LIP_POINTS)
    lips = np.linalg.norm(top - bottom, axis=1) / np.maximum(np.linalg.norm(left - right, axis=1), 1e-6)
    eyes = np.mean([_lid_height(*(points[:, i] for i in eye)) for eye in EYE_POINTS], axis=0)
    return np.stack([lips, eyes], axis=1)


def _lid_height(first: np.ndarray, lid: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return (N,): how far a lid is above the line between the corners, over their distance; y runs down."""
    along, up = second - first, first - lid
    area = along[:, 0] * up[:, 1] - along[:, 1] * up[:, 0]
    return area / np.maximum((along**2).sum(axis=1), 1e-9)


def reconstruction(networks: MotionSpaceNetworks, frames: FrameSet) -> Reconstruction:
    """Return how close each person's first frame, driven by the others, comes to them."""
    errors: list[tuple[float, float, float, float]] = []
    for index in _by_person(frames):
        sources = pictures_of(frames, np.repeat(index[:1], len(index) - 1))
        targets = pictures_of(frames, index[1:])
        outputs, _ = driven(networks, sources, targets)
        size = outputs.shape[-1]
        sources, targets = network_pictures(sources, size), network_pictures(targets, size)
        errors.append((*_errors(outputs, targets), *_errors(sources, targets)))
    means = np.mean(errors, axis=0)
    return Reconstruction(float(means[0]), _decibels(means[1]), float(means[2]), _decibels(means[3]))


def _errors(pictures: Tensor, targets: Tensor) -> tuple[float, float]:
    return float((pictures - targets).abs().mean()), float((pictures - targets).square().mean())


def _decibels(squared: float) -> float:
    return float(-10 * np.log10(max(squared, 1e-12)))


def linear_probe(networks: MotionSpaceNetworks, training: FrameSet, held_out: FrameSet) -> np.ndarray:
    """Return (2,) correlations with the true lip and eye opening, over held-out frames within persons, of what a ridge
    regression from deformations reads; it tells whether the motion holds the openings, wherever it keeps them."""
    features, wanted = _deformations(networks, training), openings_of(training)
    mean, middle = features.mean(axis=0), wanted.mean(axis=0)
    square = (features - mean).T @ (features - mean) / len(features)
    ridge = max(PROBE_RIDGE * np.trace(square) / len(square), 1e-12) * np.eye(len(square))
    weights = np.linalg.solve(square + ridge, (features - mean).T @ (wanted - middle) / len(features))
    read = (_deformations(networks, held_out) - mean) @ weights
    truth = openings_of(held_out)
    return np.mean([correlation(read[i], truth[i]) for i in _by_person(held_out)], axis=0)


def _deformations(networks: MotionSpaceNetworks, frames: FrameSet) -> np.ndarray:
    motion = motions_of(networks, pictures_of(frames, np.arange(len(frames))))
    return motion.deformation.flatten(1).numpy().astype(np.float64)


def contact_sheet(networks: MotionSpaceNetworks, sources: Tensor, drivers: Tensor) -> np.ndarray:
    """Return (3 O, N O, 3) uint8: rows of sources, drivers and outputs, of (N, 3, S, S) pictures each."""
    outputs, _ = driven(networks, sources, drivers)
    rows = [network_pictures(part, outputs.shape[-1]) for part in (sources, drivers, outputs)]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    return (255 * sheet.permute(1, 2, 0).clamp(0, 1)).round().byte().numpy()


@dataclass(frozen=True)
class EvaluationData:
    """moving: clips of held-out persons. still: the same with heads at rest. training: what the probe is fitted to."""

    moving: FrameSet
    still: FrameSet
    training: FrameSet


@dataclass(frozen=True)
class Readers:
    """What reads openings off pictures: whole ones, and patches of the eyes."""

    openings: OpeningRegressor
    eyes: EyeRegressor


def evaluated(
    networks: MotionSpaceNetworks, data: EvaluationData, readers: Readers
) -> dict[str, dict[str, float]]:
    """Return all figures by measure and name."""
    spread, leak = canonical_spread(networks, data.moving), leakage(networks, data.still)
    probe = linear_probe(networks, data.training, data.moving)
    return {
        "canonical_spread": {**asdict(spread), "ratio": spread.ratio},
        "leakage": {**asdict(leak), "ratio": leak.ratio},
        "self_driving": asdict(following(networks, data.moving, readers.openings, cross=False)),
        "cross_driving": asdict(following(networks, data.moving, readers.openings, cross=True)),
        "eye_patches": asdict(eye_following(networks, data.moving, readers.eyes)),
        "probe": {"lips": float(probe[0]), "eyes": float(probe[1])},
        "reconstruction": asdict(reconstruction(networks, data.moving)),
    }


def trained_networks(path: Path) -> MotionSpaceNetworks:
    """Return the networks of a weight file, or of a run's checkpoint (.pt), in evaluation mode without gradients.

    Raises what `load_motion_space` and `read_motion_space_checkpoint` raise.
    """
    if path.suffix == ".pt":
        return read_motion_space_checkpoint(path).trained_networks().eval().requires_grad_(False)
    return load_motion_space(path)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, nargs="+", help="motion spaces to compare")
    parser.add_argument(
        "--frames", type=Path, required=True, help="frames they were trained on (.safetensors)"
    )
    parser.add_argument("--first-person", type=int, default=10_000, help="seed of the first held-out person")
    parser.add_argument("--persons", type=int, default=24)
    parser.add_argument("--clip-frames", type=int, default=32)
    parser.add_argument("--regressor-steps", type=int, default=800)
    parser.add_argument("--eye-regressor-steps", type=int, default=400)
    parser.add_argument("--sheets", type=Path, help="folder for a contact sheet of each")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure motion spaces, and write the figures to stdout as JSON, a line for each; returns the exit code."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    training = read_frames(options.frames)
    persons = range(options.first_person, options.first_person + options.persons)
    if set(persons) & set(training.persons.tolist()):
        raise ValueError("training saw some of these persons: choose another --first-person")
    moving, still = (
        made_frames(persons, 1, options.clip_frames, training.size, seed=1, still=s) for s in (False, True)
    )
    regressor = fitted_regressor(training, options.regressor_steps)
    readers = Readers(regressor, fitted_eye_regressor(training, options.eye_regressor_steps))
    read = regressor.read(pictures_of(moving, np.arange(len(moving))))
    overall = correlation(read, openings_of(moving))
    sys.stdout.write(json.dumps({"regressor": {"lips": overall[0], "eyes": overall[1]}}) + "\n")
    sample = training.rows(np.random.default_rng(0).permutation(len(training))[:2000])
    data = EvaluationData(moving, still, sample)
    for path in options.weights:
        networks = trained_networks(path)
        figures = {"weights": str(path), **evaluated(networks, data, readers)}
        sys.stdout.write(json.dumps(figures) + "\n")
        sys.stdout.flush()
        if options.sheets is not None:
            _write_sheets(networks, moving, options.sheets, path)
    return 0


def _write_sheets(networks: MotionSpaceNetworks, frames: FrameSet, folder: Path, weights: Path) -> None:
    """Write self- and cross-driven sheets, named after the run's folder."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    groups = _by_person(frames)[:12]
    rng = np.random.default_rng(0)
    chosen = np.array([rng.choice(index[1:]) for index in groups])
    own = np.array([index[0] for index in groups])
    for name, sources in (("self", own), ("cross", np.roll(own, 1))):
        sheet = contact_sheet(networks, pictures_of(frames, sources), pictures_of(frames, chosen))
        run = weights.parent.parent if weights.suffix == ".pt" else weights.parent
        Image.fromarray(sheet).save(folder / f"{run.name}_{name}.png")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
