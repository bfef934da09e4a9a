"""`talking-portrait train fantasytalking`: what a small FantasyTalking is trained on, beside its run and measures.

It stands here and not in `training`, because it asks `runtime` for the device and shows progress.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.host import host
from .train_autoencoder_action import AutoencoderTraining, add_autoencoder_action
from .train_fantasytalking_run_command import add_run_actions
from .training_options import prepared_device, require_at_least_one
from .training_people import add_people_options, chosen_people, require_new_clips

if TYPE_CHECKING:
    from ..core_models.motion.motion_intensity import IntensityScale
    from ..training.fantasytalking_data import TalkingClip


def main(arguments: Sequence[str]) -> int:
    """Run a subcommand and return its exit code, 0. Raises what the subcommands raise; argparse ends with 2."""
    options = build_parser().parse_args(arguments)
    return options.action(options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `parse_args` gives a namespace whose `action` runs the subcommand."""
    parser = argparse.ArgumentParser(
        prog="talking-portrait train fantasytalking",
        description="Train a small FantasyTalking on made heads.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_clips(actions)
    add_autoencoder_action(
        actions, _autoencoder_training, own_weights=("lips_weight",), begins_with_files=True
    )
    add_run_actions(actions)
    return parser


def _add_clips(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "clips", help="made heads that speak and move about, with all that is true of them"
    )
    add_people_options(parser)
    parser.add_argument("--frames", type=int, metavar="N", help="of every clip, 4 k + 1 (default: 37)")
    parser.add_argument(
        "--scale-of",
        type=Path,
        metavar="X.npz",
        help="clips by which intensities are measured: with --held-out those of training; else their own",
    )
    parser.set_defaults(action=make_clips)


def make_clips(options: argparse.Namespace) -> int:
    """Make the clips and write the file's path to stdout.

    Raises ValueError for a file that is there already, held-out clips without a scale, and numbers out of range.
    """
    from ..training.actalker_data import embedded_listener
    from ..training.fantasytalking_data import fitted_scale, talking_clips, write_talking_clips
    from ..training.fantasytalking_ingredients import CLIPS_EACH, FRAMES

    prepared_device(options)
    require_at_least_one(options, ("clips_each", "frames"))
    require_new_clips(options.out)
    people, seed = people_and_seed(options)
    frames = FRAMES if options.frames is None else options.frames
    _require_whole_latents(frames)
    scale = _scale(options)
    made = talking_clips(
        people,
        CLIPS_EACH if options.clips_each is None else options.clips_each,
        frames,
        seed,
        embedded_listener(),
        progress=host().progress(1).update,
    )
    clips: list[TalkingClip] = list(made)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_talking_clips(options.out, clips, scale or fitted_scale(clips))
    sys.stdout.write(f"{options.out}\n")
    return 0


def people_and_seed(options: argparse.Namespace) -> tuple[Sequence[int], int]:
    """Return the identities and the seed asked for. Raises ValueError for more people than there are, or none."""
    from ..training.fantasytalking_ingredients import (
        HELD_OUT_PEOPLE,
        HELD_OUT_SEED,
        TRAINING_PEOPLE,
        TRAINING_SEED,
    )

    return chosen_people(options, (TRAINING_PEOPLE, TRAINING_SEED), (HELD_OUT_PEOPLE, HELD_OUT_SEED))


def _require_whole_latents(frames: int) -> None:
    from ..core_models.video_diffusion.wan.frame_rules import FRAMES_PER_LATENT

    if frames % FRAMES_PER_LATENT != 1:
        raise ValueError(
            f"--frames is {frames}, expected 1 more than a multiple of {FRAMES_PER_LATENT}, as 33 or 37"
        )


def _scale(options: argparse.Namespace) -> IntensityScale | None:
    from ..training.fantasytalking_data import read_talking_clips

    if options.scale_of is not None:
        return read_talking_clips(options.scale_of).scale
    if options.held_out:
        raise ValueError(
            "intensities of held-out clips are measured by those of training: name that file with --scale-of"
        )
    return None


def _autoencoder_training() -> AutoencoderTraining:
    from ..training import fantasytalking_autoencoder as autoencoder
    from ..training.fantasytalking_data import read_talking_clips
    from ..training.fantasytalking_ingredients import AUTOENCODER_RECIPE

    return AutoencoderTraining(
        autoencoder.WanAutoencoderTrainer,
        autoencoder.SMALL_WAN_AUTOENCODER,
        AUTOENCODER_RECIPE,
        lambda path: read_talking_clips(path).clips,
        autoencoder.export_wan_autoencoder,
        autoencoder.WanAutoencoderTrainer.begun_with,
    )
