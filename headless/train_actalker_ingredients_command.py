"""`talking-portrait train actalker`: what its training needs first; clips, a video autoencoder, and a reader."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.host import host
from .training_options import option_of

if TYPE_CHECKING:
    import torch

    from ..training.actalker_autoencoder import AutoencoderTrainer
    from ..training.actalker_data import ControlledClip

AUTOENCODER_FILE = "autoencoder.safetensors"
"""In the autoencoder's run, written when its command ends."""
RUN_NUMBERS = ("until", "checkpoint_every", "log_every")
"""Options of a training that are numbers of steps."""
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


def add_ingredient_actions(actions: argparse._SubParsersAction) -> None:
    """Add `clips`, `autoencoder` and `reader` to the actions of `talking-portrait train actalker`."""
    _add_clips(actions)
    _add_autoencoder(actions)
    _add_reader(actions)


def _add_clips(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("clips", help="made heads that speak and move, with all that is true of them")
    parser.add_argument("--out", type=Path, required=True, metavar="X.npz")
    parser.add_argument(
        "--held-out", action="store_true", help="people and sentences that training never sees"
    )
    parser.add_argument("--people", type=int, metavar="N", help="default: 200, or 16 with --held-out")
    parser.add_argument("--clips-each", type=int, metavar="N", help="of every person (default: 2)")
    parser.add_argument("--seconds", type=float, metavar="S", help="of every clip (default: 3)")
    parser.add_argument("--seed", type=int, metavar="N", help="of sentences and movements")
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")
    parser.set_defaults(action=make_clips)


def _add_autoencoder(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("autoencoder", help="train the small video autoencoder and write its file")
    parser.add_argument("--clips", type=Path, required=True, metavar="X.npz", help="what it learns from")
    parser.add_argument("--half", action="store_true", help="the file in float16: half as large")
    for name in _RECIPE:
        parser.add_argument(option_of(name), type=int if name in _WHOLE else float, metavar="N")
    parser.add_argument("--precision", help="float32 or bfloat16 (products only)")
    add_run_options(parser, checkpoint_every=200, log_every=100)
    parser.set_defaults(action=train_autoencoder)


def _add_reader(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "reader", help="fit what reads mouth, eyes and turn off frames, to measure by"
    )
    parser.add_argument("--clips", type=Path, required=True, metavar="X.npz", help="what it learns from")
    parser.add_argument("--autoencoder", type=Path, required=True, metavar="X.safetensors")
    parser.add_argument("--out", type=Path, required=True, metavar="X.safetensors")
    parser.add_argument("--held-out", type=Path, metavar="X.npz", help="say how well it reads these clips")
    parser.add_argument("--count", type=int, metavar="N", help="at most so many clips, evenly (default: 200)")
    parser.add_argument("--steps", type=int, metavar="N", help="default: 1500")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")
    parser.set_defaults(action=fit_reader)


def add_run_options(parser: argparse.ArgumentParser, checkpoint_every: int, log_every: int) -> None:
    """Add what both trainings have: the run's folder, going on and stopping, device and threads."""
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop there; --resume goes on later")
    every = {"checkpoint_every": checkpoint_every, "log_every": log_every}
    for name, steps in every.items():
        parser.add_argument(
            option_of(name), type=int, default=steps, metavar="STEPS", help="default: %(default)s"
        )
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )


def given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the options that were given, by name."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def prepared_device(options: argparse.Namespace) -> torch.device:
    """Set the processor's threads and return the device that was asked for, the processor where none can be."""
    import torch

    if options.threads is not None:
        torch.set_num_threads(max(1, options.threads))
    return host().device(getattr(options, "device", "cpu"))


def require_at_least_one(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ValueError for a number below 1; what was not given is passed over."""
    for name, value in given(options, names).items():
        if value < 1:
            raise ValueError(f"{option_of(name)} is {value}, expected at least 1")


def require_new_run(checkpoint: Path) -> None:
    """Raise ValueError when a run's folder holds a checkpoint already."""
    if checkpoint.exists():
        raise ValueError(
            f"{checkpoint.parent} holds a run already: go on with --resume, or choose another folder"
        )


def require_given_alike(asked: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """Raise ValueError naming every option that is given otherwise than a checkpoint has it."""
    other = [f"{option_of(n)} {v} (it is {kept[n]})" for n, v in asked.items() if v != kept[n]]
    if other:
        raise ValueError(
            f"a run goes on as it began, but these differ from the checkpoint: {', '.join(other)}. Leave them out, or "
            "begin a new run in another folder"
        )


def make_clips(options: argparse.Namespace) -> int:
    """Make the clips and write the file's path to stdout. Raises ValueError for a file that is there already."""
    from ..training.actalker_data import controlled_clips, embedded_listener, write_clips
    from ..training.actalker_ingredients import CLIPS_EACH, SECONDS

    prepared_device(options)
    require_at_least_one(options, ("clips_each",))
    _require_new_clips(options.out)
    people, seed = people_and_seed(options)
    made = controlled_clips(
        people,
        CLIPS_EACH if options.clips_each is None else options.clips_each,
        SECONDS if options.seconds is None else options.seconds,
        seed,
        embedded_listener(),
        progress=host().progress(1).update,
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_clips(options.out, made)
    sys.stdout.write(f"{options.out}\n")
    return 0


def _require_new_clips(target: Path) -> None:
    if target.suffix.lower() != ".npz":
        raise ValueError(f"clips are written as .npz, but the name is {target.name!r}")
    if target.exists():
        raise ValueError(f"{target} is there already: delete it to make it anew, or choose another name")


def people_and_seed(options: argparse.Namespace) -> tuple[Sequence[int], int]:
    """Return the identities and the seed asked for. Raises ValueError for more people than there are, or none."""
    from ..training.actalker_ingredients import (
        HELD_OUT_PEOPLE,
        HELD_OUT_SEED,
        TRAINING_PEOPLE,
        TRAINING_SEED,
    )
    from ..training.made_heads.clip import HELD_OUT_IDENTITIES, TRAINING_IDENTITIES

    known = HELD_OUT_IDENTITIES if options.held_out else TRAINING_IDENTITIES
    count, seed = (HELD_OUT_PEOPLE, HELD_OUT_SEED) if options.held_out else (TRAINING_PEOPLE, TRAINING_SEED)
    count = count if options.people is None else options.people
    if not 1 <= count <= len(known):
        raise ValueError(f"--people is {count}, expected 1 to {len(known)}")
    return known[:count], seed if options.seed is None else options.seed


def train_autoencoder(options: argparse.Namespace) -> int:
    """Train, or go on, write the weight file as it is then, and its path to stdout."""
    from ..training.actalker_autoencoder import export_autoencoder
    from ..training.checkpoint_file import CHECKPOINT_FILE, remove_unfinished
    from ..training.kdtalker_run import only_process
    from ..training.stepwise_training import fit

    device = prepared_device(options)
    require_at_least_one(options, RUN_NUMBERS)
    checkpoint, target = options.out / CHECKPOINT_FILE, options.out / AUTOENCODER_FILE
    make = _continued_autoencoder if options.resume else _begun_autoencoder
    trainer = make(checkpoint, options, device)
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
        export_autoencoder(trainer, target, options.half)
    sys.stdout.write(f"{target}\n")
    return 0


def _begun_autoencoder(checkpoint: Path, options: argparse.Namespace, device: Any) -> AutoencoderTrainer:
    from ..training.actalker_autoencoder import SMALL_AUTOENCODER, AutoencoderTrainer
    from ..training.actalker_data import read_clips
    from ..training.actalker_ingredients import AUTOENCODER_RECIPE

    require_new_run(checkpoint)
    recipe = replace(AUTOENCODER_RECIPE, **_given_autoencoder_recipe(options))
    return AutoencoderTrainer(SMALL_AUTOENCODER, recipe, read_clips(options.clips), device)


def _continued_autoencoder(path: Path, options: argparse.Namespace, device: Any) -> AutoencoderTrainer:
    from ..training.actalker_autoencoder import AutoencoderTrainer
    from ..training.actalker_data import read_clips
    from ..training.checkpoint_file import run_checkpoint

    found = run_checkpoint(path.parent)
    trainer = AutoencoderTrainer.from_checkpoint(found, read_clips(options.clips), device)
    kept = vars(trainer.recipe)
    require_given_alike(
        {_as_option(name): value for name, value in _given_autoencoder_recipe(options).items()},
        {_as_option(name): value for name, value in kept.items()},
    )
    return trainer


def _as_option(field: str) -> str:
    return "batch_clips" if field == "clips" else field


def _given_autoencoder_recipe(options: argparse.Namespace) -> dict[str, Any]:
    asked = given(options, (*_RECIPE, "precision"))
    return {"clips" if name == "batch_clips" else name: value for name, value in asked.items()}


def fit_reader(options: argparse.Namespace) -> int:
    """Fit the reader and write its path to stdout; how well it reads held-out clips goes to stderr."""
    from ..core_models.video_diffusion.autoencoder import load_video_autoencoder
    from ..training.actalker_data import read_clips
    from ..training.actalker_ingredients import READER_CLIPS, READER_STEPS
    from ..training.actalker_readers import fitted_frame_reader, reconstructed, write_frame_reader

    prepared_device(options)
    _require_writable(options.out)
    require_at_least_one(options, ("count", "steps"))
    count = READER_CLIPS if options.count is None else options.count
    autoencoder, whole = load_video_autoencoder(options.autoencoder), read_clips(options.clips)
    held_out = () if options.held_out is None else read_clips(options.held_out)
    chosen = whole[:: -(-len(whole) // count)]
    steps = READER_STEPS if options.steps is None else options.steps
    reader = fitted_frame_reader(chosen, reconstructed(autoencoder, chosen), steps, options.seed)
    write_frame_reader(reader, options.out)
    if held_out:
        sys.stderr.write(f"{_quality(reader, held_out)}\n")
    sys.stdout.write(f"{options.out}\n")
    return 0


def _require_writable(target: Path) -> None:
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"weights are written as safetensors, but the name is {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent} does not exist: create it or choose another")


def _quality(reader: Any, clips: Sequence[ControlledClip]) -> str:
    from ..training.actalker_readers import READINGS, reading_quality

    found = reading_quality(reader, clips)
    return "\n".join(
        f"{name}: correlation {overall:.3f}, within clips {within:.3f}, mean error {error:.4f}"
        for name, overall, within, error in zip(
            READINGS, found.overall, found.within, found.error, strict=True
        )
    )
