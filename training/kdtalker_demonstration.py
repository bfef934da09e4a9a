"""What KDTalker's training learns on made clips whose law is known, and what the paper's ablations do to it.

    python -m talking_portrait.training.kdtalker_demonstration [--steps 6000] [--only full]

Trains a small denoiser three times on the clips of made_motion.py: whole, without attention, and without the canonical
token. Each then speaks for held-out people, ten steps and chained windows as users have it, and is scored by how the
mouth's opening goes with the true one. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core_models.keypoint_diffusion.denoiser import DenoiserParameters
from ..core_models.keypoint_diffusion.kdtalker import KDTalkerModel
from ..core_models.keypoint_diffusion.kdtalker_sampler import KDTalkerSamplingParameters, sample_scores
from ..core_models.keypoint_diffusion.motion_vectors import VECTOR_SIZE, MotionStatistics
from ..core_models.keypoint_diffusion.windows import seeded_noise, window_starts
from .kdtalker import KDTalkerTrainingParameters
from .kdtalker_run import KDTalkerTrainer, TrainingData, training_data
from .kdtalker_statistics import clip_statistics
from .made_motion import MadeClip, made_clips, made_world, opening_read_back

ABLATIONS: dict[str, dict[str, bool]] = {
    "full": {},
    "without canonical token": {"canonical_token": False},
    "without attention": {"attention": False},
}
SMALL_DENOISER = DenoiserParameters(width=96, layers=2, heads=4, head_size=24, time_size=32, rotary_size=8)
RECIPE = KDTalkerTrainingParameters(
    steps=6000, batch=8, learning_rate=4e-3, warmup_steps=30, noise_probability=0.0, held_out_share=0.0
)
"""The released recipe at a small size: fewer steps, a smaller batch, a higher rate, and no noise in what is heard,
which would take many more steps."""
LOSS_AVERAGE = 100
"""Steps that the first and the last training loss are averaged over."""


@dataclass(frozen=True)
class MadeSets:
    """Clips to learn from and clips of other people to be scored on, and the statistics of the former."""

    data: TrainingData
    held_out: list[MadeClip]
    held_out_data: TrainingData
    statistics: MotionStatistics


def made_sets(
    people: int = 200,
    held_out: int = 16,
    window: int = 64,
    smeared_frames: int = 2,
) -> MadeSets:
    """Return three clips of 8 s of each of `people`, and one each of people who are not among them."""
    world = made_world(smeared_frames=smeared_frames)
    clips = made_clips(world, people, clips_each=3, frames=200, seed=1)
    others = made_clips(world, held_out, clips_each=1, frames=240, seed=2)
    statistics = clip_statistics([one.clip for one in clips])
    return MadeSets(
        data=training_data([one.clip for one in clips], window, 0.0),
        held_out=others,
        held_out_data=training_data([one.clip for one in others], window, 0.0),
        statistics=statistics,
    )


def trained(
    sets: MadeSets,
    parameters: DenoiserParameters,
    recipe: KDTalkerTrainingParameters,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[KDTalkerModel, list[float]]:
    """Return a model trained by the recipe and the loss of every step."""
    trainer = KDTalkerTrainer.begin(parameters, sets.statistics, recipe, sets.data)
    losses = []
    for step in range(recipe.steps):
        losses.append(trainer.train_step(trainer.batch(step)).loss)
        if progress is not None:
            progress(step + 1, losses[-1])
    return trainer.model.eval(), losses


def held_out_loss(model: KDTalkerModel, sets: MadeSets, recipe: KDTalkerTrainingParameters) -> float:
    """Return the loss on windows of held-out people, heard without noise."""
    data = replace(sets.data, held_out=sets.held_out_data.training)
    return KDTalkerTrainer(model, recipe, data).validation_loss(256)


def held_out_sync(
    model: KDTalkerModel, sets: MadeSets, other_sound: bool = False, steps: int = 10, overlap: int = 8
) -> float:
    """Return the mean correlation of the mouth's opening with the true one, as held-out people speak.

    other_sound: let everybody hear the next one's speech; what is left then is chance.
    """
    scores = []
    for index, made in enumerate(sets.held_out):
        heard = sets.held_out[(index + 1) % len(sets.held_out)] if other_sound else made
        motion = spoken(model, made, heard.clip.audio, index, steps, overlap)
        truth = made.opening[1 : 1 + len(motion)]
        scores.append(np.corrcoef(opening_read_back(motion, made.person), truth)[0, 1])
    return float(np.mean(scores))


def spoken(
    model: KDTalkerModel, made: MadeClip, audio: np.ndarray, seed: int, steps: int, overlap: int
) -> np.ndarray:
    """Return the (N, 70) motion of somebody who hears (M, 512) audio, from the second frame on, in whole windows."""
    statistics, window = model.statistics, model.parameters_used.window
    frames = len(audio) - 1 - (len(audio) - 1 - overlap) % (window - overlap)
    tokens = (statistics.canonical_token(made.clip.canonical[0]), statistics.normalised(made.clip.motion[0]))
    scores = sample_scores(
        model,
        tuple(torch.from_numpy(np.asarray(token)).float() for token in tokens),
        torch.tensor(audio[1 : 1 + frames]),
        window_starts(frames, window, overlap),
        seeded_noise([seed], frames, VECTOR_SIZE),
        KDTalkerSamplingParameters(steps=steps, overlap=overlap),
    )
    return statistics.denormalised(scores[0].numpy())


def figures_of(model: KDTalkerModel, losses: list[float], sets: MadeSets) -> dict[str, float]:
    """Return what the table shows of a trained model."""
    return {
        "first loss": float(np.mean(losses[:10])),
        "last loss": float(np.mean(losses[-LOSS_AVERAGE:])),
        "held-out loss": held_out_loss(model, sets, RECIPE),
        "sync": held_out_sync(model, sets),
        "sync with another's speech": held_out_sync(model, sets, other_sound=True),
    }


def main(arguments: list[str] | None = None) -> int:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--only", choices=list(ABLATIONS), help="one of the three")
    parser.add_argument(
        "--noise", type=float, default=RECIPE.noise_probability, help="probability of noise in the sound"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="small products gain nothing from a second one"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sets, recipe = made_sets(), replace(RECIPE, steps=options.steps, noise_probability=options.noise)
    table = {}
    for name in [options.only] if options.only else ABLATIONS:
        began = time.monotonic()
        model, losses = trained(sets, replace(SMALL_DENOISER, **ABLATIONS[name]), recipe)
        table[name] = {**figures_of(model, losses, sets), "minutes": (time.monotonic() - began) / 60}
        json.dump({name: table[name]}, sys.stdout, indent=1)
        sys.stdout.write("\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
