"""Does Takin-ADA's second stage learn what it claims? Trained small on made heads seen through a small motion space.

`python -m talking_portrait.training.takin_ada_demonstration --motion-space space.safetensors --out FOLDER`
makes speaking heads, trains with the weighted sum of the speech model's layers and with its last layer alone, and
measures on people and speech that training did not see. The figures go to standard output as JSON, and with the sheets
into the folder.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from ..core_models.audio.embedding import embed_audio
from ..core_models.keypoint_diffusion.loading import load_pocket
from ..core_models.keypoint_diffusion.motion_vectors import EXPRESSION
from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel, TakinADAParameters
from ..core_models.keypoint_diffusion.takin_ada_performance import directed
from ..core_models.keypoint_diffusion.takin_ada_sampler import TakinADASamplingParameters, sample_scores
from ..core_models.keypoint_diffusion.takin_ada_stream import Direction
from ..core_models.rendering.motion_space import MotionSpaceNetworks, load_motion_space
from ..core_models.types import EMOTION_NAMES, Emotion
from .correlation import correlation
from .made_heads.clip import HELD_OUT_IDENTITIES, made_clip
from .made_heads.identity import made_identity
from .made_heads.performance import silent_performance
from .stepwise_training import fit
from .takin_ada_frame_sources import made_drawn_size
from .takin_ada_frames import pictures_of
from .takin_ada_made_clips import (
    SeenClip,
    lip_gap,
    motion_of_vectors,
    seen,
    small_keypoint_sizes,
    speech_clip,
    spoken_clips,
)
from .takin_ada_motion_space_evaluation import motions_of
from .takin_ada_pocket_data import listener_weights
from .takin_ada_speech import SpeechClip, TakinADASpeechTrainingParameters, batch_of, training_loss
from .takin_ada_speech_run import TakinADASpeechTrainer, export

logger = logging.getLogger(__name__)

NEUTRAL = Emotion.mixed({"neutral": 1.0})
OUT_OF_REACH = -1e4
"""Logit of a layer that has no share in the weighted sum."""
ONE_EMOTION = 0.95
"""Share from which on a clip counts as showing one emotion, for the reader of emotions."""
LEAST_SHOWN = 0.6
"""Strength from which on a clip's emotion is for the reader to learn from."""


@dataclass(frozen=True)
class DemonstrationParameters:
    """identities, clips, seconds: of the training data. held_out: people, one clip each. steps, batch: of training.

    sampling_steps: DDIM's. seed: of everything. prediction: "x0" with a cosine schedule, as the small sizes have it, or
    "epsilon" with the paper's.
    """

    identities: int = 120
    clips: int = 2
    seconds: float = 5.0
    held_out: int = 16
    steps: int = 1500
    batch: int = 16
    sampling_steps: int = 10
    seed: int = 0
    prediction: str = "x0"


class EmotionReader:
    """Names the emotion of a clip from its mean expression: linear discriminants of the training clips' averages."""

    def __init__(self, features: np.ndarray, labels: Sequence[int], ridge: float = 0.1) -> None:
        """features: (n, F) means of clips. labels: indices into EMOTION_NAMES. ridge: share of the variance added."""
        labels = np.asarray(labels)
        self._classes = np.unique(labels)
        self._means = np.stack([features[labels == one].mean(axis=0) for one in self._classes])
        within = features - self._means[np.searchsorted(self._classes, labels)]
        covariance = within.T @ within / len(within)
        covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        self._precision = np.linalg.inv(covariance)

    def named(self, features: np.ndarray) -> np.ndarray:
        """Return (n,) indices into EMOTION_NAMES."""
        apart = features[:, None] - self._means[None]
        distance = np.einsum("nkf,fg,nkg->nk", apart, self._precision, apart)
        return self._classes[distance.argmin(axis=1)]


def reader_of(clips: Sequence[SeenClip]) -> EmotionReader:
    """Return the reader that learned from what the motion space saw of clips that show one emotion clearly."""
    features, labels = [], []
    for one in clips:
        weights, strength = one.clip.emotion.weights[0], one.clip.emotion.strengths[0]
        if weights.max() >= ONE_EMOTION and (strength >= LEAST_SHOWN or weights[0] >= ONE_EMOTION):
            features.append(one.vectors[:, EXPRESSION].mean(axis=0))
            labels.append(int(weights.argmax()))
    return EmotionReader(np.stack(features), labels)


def at_rest(networks: MotionSpaceNetworks, identity: int) -> SeenClip:
    """Return a held-out person's face at rest, seen once: whom the second stage makes speak."""
    size = made_drawn_size(networks.parameters_used.picture_size)
    return seen(networks, made_clip(made_identity(identity), silent_performance(2, 0, NEUTRAL), size))


def spoken(
    model: TakinADAModel,
    rest: SeenClip,
    clip: SeenClip,
    emotion: Emotion | None,
    p: DemonstrationParameters,
    seed: int,
) -> np.ndarray:
    """Return (N, 70) vectors of a person who says what a clip says, in an emotion, or in the one that is heard."""
    start = model.normalise(torch.from_numpy(rest.vectors[0]))
    token = (torch.from_numpy(rest.canonical[0]) - model.source_mean) / model.source_std
    own = start[list(model.parameters_used.layout.expression)]
    direction = Direction(start, token, directed(model, emotion, None, own))
    sampling = TakinADASamplingParameters(seed=seed, steps=p.sampling_steps)
    made = sample_scores(model, embed_audio(clip.clip.sound), sampling, direction)
    return model.denormalise(made.scores[0]).numpy()


def trained(
    clips: Sequence[SpeechClip], p: DemonstrationParameters, last_layer_only: bool = False
) -> TakinADAModel:
    """Return the averaged model after training on the clips."""
    pocket = load_pocket()
    start = listener_weights(pocket)
    sizes = small_keypoint_sizes(pocket)
    if p.prediction != sizes.prediction:
        sizes = replace(sizes, prediction=p.prediction, schedule=TakinADAParameters.schedule)
    if last_layer_only:
        logits = torch.full((sizes.layers,), OUT_OF_REACH)
        logits[-1] = 0.0
        start["layers.weights"] = logits
    recipe = TakinADASpeechTrainingParameters(
        steps=p.steps,
        batch=p.batch,
        learning_rate=8e-4,
        warmup_steps=100,
        annealed=True,
        average_decay=0.995,
        precision="bfloat16",
        seed=p.seed,
    )
    trainer = TakinADASpeechTrainer(sizes, recipe, clips, start)
    fit(trainer)
    return trainer.average


def held_out_loss(model: TakinADAModel, clips: Sequence[SpeechClip], repeats: int = 8) -> float:
    """Return the denoiser's mean loss on clips, over noise that is the same for every model."""
    recipe = TakinADASpeechTrainingParameters(emotion_dropout=0.0, start_dropout=0.0, given_share=0.0)
    losses = []
    with torch.no_grad():
        for step in range(repeats):
            batch = batch_of(model, clips, [0] * len(clips))
            losses.append(training_loss(model, batch, recipe, step).denoiser.item())
    return float(np.mean(losses))


def speech_scores(
    model: TakinADAModel, networks: MotionSpaceNetworks, clips: Sequence[SeenClip], p: DemonstrationParameters
) -> dict[str, float]:
    """Return how well the lips follow held-out speech: correlation with what the motion space saw of that very clip."""
    lips = []
    for index, clip in enumerate(clips):
        rest = at_rest(networks, clip.clip.identity_seed)
        made = spoken(model, rest, clip, clip.clip.emotion, p, index)
        lips.append(correlation(lip_gap(made, rest.canonical[0]), lip_gap(clip.vectors, clip.canonical[0])))
    return {"lip correlation": float(np.mean(lips)), "worst lip correlation": float(np.min(lips))}


@dataclass(frozen=True)
class EmotionScores:
    """named: share of generated clips whose requested emotion is named; unconditioned: the same without the condition.

    seen_named: of real held-out clips, what the reader can do at best. lips: mean correlation of the lip opening of an
    emotional with the neutral performance of the same sound and seed; least_lips: its minimum over emotions, of means
    over clips. expression: RMS difference of the other keypoints between emotions; by_seed: between seeds of one.
    """

    named: float
    unconditioned: float
    seen_named: float
    lips: float
    least_lips: float
    expression: float
    by_seed: float


def emotion_scores(
    model: TakinADAModel,
    networks: MotionSpaceNetworks,
    reader: EmotionReader,
    clips: Sequence[SeenClip],
    p: DemonstrationParameters,
) -> EmotionScores:
    """Return what the emotion condition does on held-out people and speech."""
    columns = list(model.parameters_used.layout.expression)
    hits, blind, lips, apart, by_seed = [], [], [], [], []
    for index, clip in enumerate(clips):
        rest = at_rest(networks, clip.clip.identity_seed)
        tracks = {
            name: spoken(model, rest, clip, Emotion.mixed({name: 1.0}), p, index) for name in EMOTION_NAMES
        }
        unasked = spoken(model, rest, clip, None, p, index)
        other_seed = spoken(model, rest, clip, NEUTRAL, p, index + 1000)
        means = np.stack([track[:, EXPRESSION].mean(axis=0) for track in tracks.values()])
        hits.append(reader.named(means) == np.arange(len(EMOTION_NAMES)))
        blind.append(reader.named(unasked[:, EXPRESSION].mean(axis=0)[None]) == np.arange(len(EMOTION_NAMES)))
        gaps = {name: lip_gap(track, rest.canonical[0]) for name, track in tracks.items()}
        lips.append([correlation(gaps["neutral"], gaps[name]) for name in EMOTION_NAMES[1:]])
        neutral = tracks["neutral"][:, columns]
        apart += [rms(tracks[name][:, columns] - neutral) for name in EMOTION_NAMES[1:]]
        by_seed.append(rms(other_seed[:, columns] - neutral))
    one = [c for c in clips if c.clip.emotion.weights[0].max() >= ONE_EMOTION]
    seen_means = np.stack([c.vectors[:, EXPRESSION].mean(axis=0) for c in one])
    seen_hits = reader.named(seen_means) == [int(c.clip.emotion.weights[0].argmax()) for c in one]
    return EmotionScores(
        named=float(np.mean(hits)),
        unconditioned=float(np.mean(blind)),
        seen_named=float(np.mean(seen_hits)),
        lips=float(np.mean(lips)),
        least_lips=float(np.mean(lips, axis=0).min()),
        expression=float(np.mean(apart)),
        by_seed=float(np.mean(by_seed)),
    )


def rms(values: np.ndarray) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(values**2)))


def emotion_sheet(
    model: TakinADAModel,
    networks: MotionSpaceNetworks,
    clips: Sequence[SeenClip],
    p: DemonstrationParameters,
    enlarged: int = 2,
) -> np.ndarray:
    """Return a picture (H, W, 3) uint8: a row for each person, the face at rest and one frame of each emotion.

    All frames of a row are of the same moment of the same speech: the one where the neutral lips are widest apart.
    """
    rows = []
    for index, clip in enumerate(clips):
        rest = at_rest(networks, clip.clip.identity_seed)
        picture = pictures_of(rest.frames, np.arange(1))
        like = motions_of(networks, picture)
        tracks = [spoken(model, rest, clip, Emotion.mixed({name: 1.0}), p, index) for name in EMOTION_NAMES]
        moment = int(lip_gap(tracks[0], rest.canonical[0]).argmax())
        motion = motion_of_vectors(np.stack([track[moment] for track in tracks]), like)
        source = like.rows(slice(0, 1))
        with torch.no_grad():
            drawn = [
                networks.render(picture, source, motion.rows(slice(i, i + 1)))[0]
                for i in range(len(EMOTION_NAMES))
            ]
        tiles = [picture[0], *drawn]
        rows.append(
            np.concatenate(
                [(tile.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for tile in tiles], 1
            )
        )
    sheet = np.concatenate(rows)
    return cv2.resize(sheet, None, fx=enlarged, fy=enlarged, interpolation=cv2.INTER_CUBIC)


def demonstrate(networks: MotionSpaceNetworks, p: DemonstrationParameters, out: Path) -> dict:
    """Train and measure; return the figures. Weights and sheets are written into `out`."""
    sizes_of = TakinADAModel(small_keypoint_sizes(load_pocket()))
    sizes_of.load_state_dict({**sizes_of.state_dict(), **listener_weights(load_pocket())})
    sizes_of.eval()
    training = list(spoken_clips(networks, range(p.identities), p.clips, p.seconds, p.seed))
    held_out = list(
        spoken_clips(networks, HELD_OUT_IDENTITIES[: p.held_out], 1, p.seconds, p.seed + 1_000_000)
    )
    logger.info("%d clips to learn from, %d held out", len(training), len(held_out))
    clips = [speech_clip(sizes_of, clip, str(index)) for index, clip in enumerate(training)]
    unheard = [speech_clip(sizes_of, clip, f"held out {index}") for index, clip in enumerate(held_out)]
    reader = reader_of(training)
    figures: dict[str, dict] = {}
    for name, last_only in (("weighted sum", False), ("last layer", True)):
        model = trained(clips, p, last_only)
        figures[name] = {
            "held-out loss": held_out_loss(model, unheard),
            **speech_scores(model, networks, held_out, p),
            "layer shares": [round(share, 4) for share in model.layers.shares().tolist()],
        }
        logger.info("%s: %s", name, figures[name])
        if not last_only:
            figures["emotion"] = vars(emotion_scores(model, networks, reader, held_out, p))
            logger.info("emotion: %s", figures["emotion"])
            export(model, out / "takin_ada_small.safetensors", {"steps": p.steps, "seed": p.seed})
            sheet = emotion_sheet(model, networks, held_out[:6], p)
            cv2.imwrite(str(out / "takin_ada_emotions.png"), sheet[..., ::-1])
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--motion-space", type=Path, required=True, help="weights of the first stage")
    parser.add_argument("--out", type=Path, required=True, help="folder for figures, weights and sheets")
    for name, value in vars(DemonstrationParameters()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--threads", type=int, default=2)
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(options["threads"])
    p = DemonstrationParameters(**{name: options[name] for name in vars(DemonstrationParameters())})
    options["out"].mkdir(parents=True, exist_ok=True)
    networks = load_motion_space(options["motion_space"]).eval()
    figures = demonstrate(networks, p, options["out"])
    text = json.dumps(figures, indent=1)
    (options["out"] / "takin_ada_speech.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
