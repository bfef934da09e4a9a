"""`talking-portrait train actalker`: what its training needs first; clips, a video autoencoder, and a reader."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.host import host
from .train_autoencoder_action import AutoencoderTraining, add_autoencoder_action
from .training_options import prepared_device, require_at_least_one
from .training_people import add_people_options, chosen_people, require_new_clips

if TYPE_CHECKING:
    from ..training.actalker_data import ControlledClip


def add_ingredient_actions(actions: argparse._SubParsersAction) -> None:
    """Add `clips`, `autoencoder` and `reader` to the actions of `talking-portrait train actalker`."""
    _add_clips(actions)
    add_autoencoder_action(actions, _autoencoder_training)
    _add_reader(actions)


def _add_clips(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("clips", help="made heads that speak and move, with all that is true of them")
    add_people_options(parser)
    parser.add_argument("--seconds", type=float, metavar="S", help="of every clip (default: 3)")
    parser.set_defaults(action=make_clips)


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


def make_clips(options: argparse.Namespace) -> int:
    """Make the clips and write the file's path to stdout. Raises ValueError for a file that is there already."""
    from ..training.actalker_data import controlled_clips, embedded_listener, write_clips
    from ..training.actalker_ingredients import CLIPS_EACH, SECONDS

    prepared_device(options)
    require_at_least_one(options, ("clips_each",))
    require_new_clips(options.out)
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


def people_and_seed(options: argparse.Namespace) -> tuple[Sequence[int], int]:
    """Return the identities and the seed asked for. Raises ValueError for more people than there are, or none."""
    from ..training.actalker_ingredients import (
        HELD_OUT_PEOPLE,
        HELD_OUT_SEED,
        TRAINING_PEOPLE,
        TRAINING_SEED,
    )

    return chosen_people(options, (TRAINING_PEOPLE, TRAINING_SEED), (HELD_OUT_PEOPLE, HELD_OUT_SEED))


def _autoencoder_training() -> AutoencoderTraining:
    from ..training import actalker_autoencoder as autoencoder
    from ..training.actalker_data import read_clips
    from ..training.actalker_ingredients import AUTOENCODER_RECIPE

    return AutoencoderTraining(
        autoencoder.AutoencoderTrainer,
        autoencoder.SMALL_AUTOENCODER,
        AUTOENCODER_RECIPE,
        read_clips,
        autoencoder.export_autoencoder,
    )


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
