"""The action `autoencoder` of the training commands: a small video autoencoder, from clips to its weight file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..runtime.host import host
from .training_options import (
    RUN_NUMBERS,
    add_run_options,
    given,
    option_of,
    prepared_device,
    require_at_least_one,
    require_given_alike,
    require_new_run,
)

if TYPE_CHECKING:
    from ..training.autoencoder_training import AutoencoderTrainingParameters, VideoAutoencoderTrainer

AUTOENCODER_FILE = "autoencoder.safetensors"
"""In the autoencoder's run, written when its command ends."""
_WHOLE = ("steps", "batch_clips", "frames", "warmup", "seed")
_RECIPE = (
    *_WHOLE,
    "alone_share",
    "learning_rate",
    "weight_decay",
    "clip_norm",
    "colour_range",
    "region_weight",
    "feature_weight",
    "divergence_weight",
)


class AutoencoderTraining(NamedTuple):
    """One system's training. sizes: of the network. recipe: where nothing else is said. read_clips: of a file.

    export: writes a trainer's autoencoder to a file, in float16 if asked. begun_with: gives a trainer that begins with
    an exported file; None where that is not offered. It takes the file, the recipe, clips and device.
    """

    trainer: type[VideoAutoencoderTrainer]
    sizes: Any
    recipe: AutoencoderTrainingParameters
    read_clips: Callable[[Path], Sequence[Any]]
    export: Callable[[Any, Path, bool], None]
    begun_with: Callable[[Path, Any, Sequence[Any], Any], VideoAutoencoderTrainer] | None = None


def add_autoencoder_action(
    actions: argparse._SubParsersAction,
    training: Callable[[], AutoencoderTraining],
    own_weights: Sequence[str] = (),
    begins_with_files: bool = False,
) -> None:
    """Add `autoencoder` to a command's actions.

    training: what is trained, asked for when it runs. own_weights: numbers of its recipe that others do not have.
    begins_with_files: whether it may begin with an exported file, and train the decoder of that alone.
    """
    parser = actions.add_parser("autoencoder", help="train the small video autoencoder and write its file")
    parser.add_argument("--clips", type=Path, required=True, metavar="X.npz", help="what it learns from")
    parser.add_argument("--half", action="store_true", help="the file in float16: half as large")
    for name in (*_RECIPE, *own_weights):
        parser.add_argument(option_of(name), type=int if name in _WHOLE else float, metavar="N")
    parser.add_argument("--precision", help="float32 or bfloat16 (products only)")
    parser.set_defaults(begin_with=None, decoder_alone=None)
    if begins_with_files:
        _add_beginning(parser)
    add_run_options(parser, checkpoint_every=200, log_every=100)
    parser.set_defaults(
        action=lambda options: train_autoencoder(options, training()),
        recipe_options=(*_RECIPE, "precision", "decoder_alone", *own_weights),
    )


def _add_beginning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--begin-with",
        type=Path,
        metavar="X.safetensors",
        help="an exported autoencoder whose sizes and weights it begins with (default: random ones)",
    )
    parser.add_argument(
        "--decoder-alone",
        action=argparse.BooleanOptionalAction,
        help="leave the encoder of --begin-with as it is: models on its latents go on with the new decoder",
    )


def train_autoencoder(options: argparse.Namespace, training: AutoencoderTraining) -> int:
    """Train, or go on, write the weight file as it is then, and its path to stdout."""
    from ..training.checkpoint_file import CHECKPOINT_FILE, remove_unfinished
    from ..training.kdtalker_run import only_process
    from ..training.stepwise_training import fit

    device = prepared_device(options)
    require_at_least_one(options, RUN_NUMBERS)
    checkpoint, target = options.out / CHECKPOINT_FILE, options.out / AUTOENCODER_FILE
    make = _continued if options.resume else _begun
    trainer = make(checkpoint, options, training, device)
    with only_process(options.out):
        remove_unfinished(options.out)
        fit(
            trainer,
            checkpoint,
            options.checkpoint_every,
            options.log_every,
            host().progress(1).update,
            options.until,
        )
        training.export(trainer, target, options.half)
    sys.stdout.write(f"{target}\n")
    return 0


def _begun(
    checkpoint: Path, options: argparse.Namespace, training: AutoencoderTraining, device: Any
) -> VideoAutoencoderTrainer:
    require_new_run(checkpoint)
    recipe = replace(training.recipe, **_given_recipe(options))
    if options.decoder_alone and options.begin_with is None:
        raise ValueError("--decoder-alone needs an encoder that has learned: name its file with --begin-with")
    clips = training.read_clips(options.clips)
    if options.begin_with is None:
        return training.trainer(training.sizes, recipe, clips, device)
    return training.begun_with(options.begin_with, recipe, clips, device)


def _continued(
    path: Path, options: argparse.Namespace, training: AutoencoderTraining, device: Any
) -> VideoAutoencoderTrainer:
    from ..training.checkpoint_file import run_checkpoint

    if options.begin_with is not None:
        raise ValueError("--resume goes on with the run's own weights: leave --begin-with out")
    found = run_checkpoint(path.parent)
    trainer = training.trainer.from_checkpoint(found, training.read_clips(options.clips), device)
    kept = vars(trainer.recipe)
    require_given_alike(
        {_as_option(name): value for name, value in _given_recipe(options).items()},
        {_as_option(name): value for name, value in kept.items()},
    )
    return trainer


def _as_option(field: str) -> str:
    return "batch_clips" if field == "clips" else field


def _given_recipe(options: argparse.Namespace) -> dict[str, Any]:
    asked = given(options, options.recipe_options)
    return {"clips" if name == "batch_clips" else name: value for name, value in asked.items()}
