"""`talking-portrait train actalker`: the model's run, its weight file and its measures; beside them its ingredients.

It stands here and not in `training`, because it asks `runtime` for the device and shows progress.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..core_models.video_types import REGION_MODES
from ..runtime.host import host
from .train_actalker_ingredients_command import add_ingredient_actions
from .training_options import (
    RUN_NUMBERS,
    add_export,
    add_run_options,
    given,
    option_of,
    prepared_device,
    require_at_least_one,
    require_given_alike,
    require_new_run,
)

if TYPE_CHECKING:
    from ..core_models.video_diffusion.actalker.model import ACTalkerParameters
    from ..core_models.video_diffusion.autoencoder import VideoAutoencoderParameters
    from ..training.actalker import ACTalkerTrainingParameters, TrainingClips
    from ..training.actalker_data import ControlledClip
    from ..training.actalker_run import ACTalkerCheckpoint, ACTalkerTrainer

logger = logging.getLogger(__name__)

TRIALS = 16
"""Clips that are measured, unless asked otherwise."""
LAYER_FORMS = ("per_frame", "joint", "none")
"""As `controlled_transformer.LAYERS` names them."""
MATERIAL_FILE = "material.txt"
"""In the run's folder: the digest of clips and autoencoder that it began with."""
_WHOLE = ("steps", "batch", "frames", "warmup_steps", "seed")
_RECIPE = (
    *_WHOLE,
    "learning_rate",
    "weight_decay",
    "clip_norm",
    "average_decay",
    "sigma_mean",
    "sigma_std",
    "dropped",
    "mouth_weight",
    "eye_weight",
)


def main(arguments: Sequence[str]) -> int:
    """Run a subcommand and return its exit code, 0. Raises what the subcommands raise; argparse ends with 2."""
    options = build_parser().parse_args(arguments)
    return options.action(options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `parse_args` gives a namespace whose `action` runs the subcommand."""
    parser = argparse.ArgumentParser(
        prog="talking-portrait train actalker", description="Train a small ACTalker on made heads."
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    add_ingredient_actions(actions)
    _add_run(actions)
    add_export(actions, export_model)
    _add_evaluate(actions)
    return parser


def _add_run(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("run", help="train the model; the defaults are the embedded one's")
    parser.add_argument("--clips", type=Path, required=True, metavar="X.npz", help="what it learns from")
    parser.add_argument("--autoencoder", type=Path, required=True, metavar="X.safetensors")
    parser.add_argument(
        "--layer", choices=LAYER_FORMS, help="masked SSM layer: the release's, the paper's, none"
    )
    parser.add_argument(
        "--regions", choices=REGION_MODES, help="full: without mask drop where both signals work"
    )
    parser.add_argument(
        "--annealed",
        action=argparse.BooleanOptionalAction,
        help="lead the learning rate to a tenth of a per cent (default: yes)",
    )
    for name in _RECIPE:
        parser.add_argument(option_of(name), type=int if name in _WHOLE else float, metavar="N")
    add_run_options(parser, checkpoint_every=500, log_every=50)
    parser.set_defaults(action=train_model)


def _add_evaluate(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "evaluate", help="what follows which signal, on clips that training did not see"
    )
    for name in ("model", "autoencoder", "reader"):
        parser.add_argument(option_of(name), type=Path, required=True, metavar="X.safetensors")
    parser.add_argument("--clips", type=Path, required=True, metavar="X.npz", help="held-out clips")
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help="default: %(default)s")
    parser.add_argument("--steps", type=int, metavar="N", help="of the sampler (default: the model's)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the noise (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="in place of the table")
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")
    parser.set_defaults(action=evaluate)


class Material(NamedTuple):
    """What a run learns from. digest: of clips and autoencoder."""

    data: TrainingClips
    parameters: ACTalkerParameters
    digest: str


def train_model(options: argparse.Namespace) -> int:
    """Train, or go on, and write the checkpoint's path to stdout.

    What can be checked without the clips is checked before they are read and encoded.
    """
    from ..training.checkpoint_file import CHECKPOINT_FILE, remove_unfinished
    from ..training.kdtalker_run import only_process
    from ..training.stepwise_training import fit

    device = prepared_device(options)
    require_at_least_one(options, RUN_NUMBERS)
    checkpoint = options.out / CHECKPOINT_FILE
    make = _continued if options.resume else _begun
    trainer, digest = make(checkpoint, options, device)
    with only_process(options.out):
        remove_unfinished(options.out)
        keep_digest(options.out / MATERIAL_FILE, digest)
        fit(
            trainer,
            checkpoint,
            options.checkpoint_every,
            options.log_every,
            host().progress(1).update,
            options.until,
        )
    sys.stdout.write(f"{checkpoint}\n")
    return 0


def _begun(checkpoint: Path, options: argparse.Namespace, device: Any) -> tuple[ACTalkerTrainer, str]:
    from ..training.actalker_run import ACTalkerTrainer

    require_new_run(checkpoint)
    recipe = training_recipe(options)
    material = _material(options, device)
    return ACTalkerTrainer(material.parameters, recipe, material.data, device), material.digest


def _continued(path: Path, options: argparse.Namespace, device: Any) -> tuple[ACTalkerTrainer, str]:
    from ..training.actalker_run import ACTalkerCheckpoint, ACTalkerTrainer
    from ..training.checkpoint_file import run_checkpoint

    checkpoint = ACTalkerCheckpoint.read(run_checkpoint(path.parent))
    require_same_run(checkpoint, options)
    material = _material(options, device, checkpoint.parameters)
    return ACTalkerTrainer.from_checkpoint(checkpoint, material.data, device), material.digest


def keep_digest(path: Path, digest: str) -> None:
    """Write the digest of what a run learns from, with a warning where there was another one."""
    from ..core_models.whole_file import renamed_when_whole

    if path.is_file() and path.read_text().strip() != digest:
        logger.warning(
            "the clips or the autoencoder are others than before: it goes on with these, but is no longer the same run"
        )
    with renamed_when_whole(path) as unfinished:
        unfinished.write_text(f"{digest}\n")


def require_same_run(checkpoint: ACTalkerCheckpoint, options: argparse.Namespace) -> None:
    """Raise ValueError naming the layer and every part of the recipe that the checkpoint has otherwise."""
    kept = {**vars(checkpoint.recipe), "layer": checkpoint.parameters.unet.layer}
    require_given_alike({**_given_recipe(options), **given(options, ("layer",))}, kept)


def training_recipe(options: argparse.Namespace) -> ACTalkerTrainingParameters:
    """Return the recipe asked for. Raises ValueError for a number outside its range."""
    from ..training.actalker import ACTalkerTrainingParameters

    return ACTalkerTrainingParameters(**_given_recipe(options))


def _given_recipe(options: argparse.Namespace) -> dict[str, Any]:
    return given(options, (*_RECIPE, "regions", "annealed"))


def _material(
    options: argparse.Namespace, device: Any, parameters: ACTalkerParameters | None = None
) -> Material:
    """parameters: of the run that goes on; None makes those of a new one."""
    from ..core_models.video_diffusion.actalker.controlled_transformer import PER_FRAME
    from ..core_models.video_diffusion.autoencoder import autoencoder_parameters, load_video_autoencoder
    from ..training.actalker import TrainingClips
    from ..training.actalker_data import read_clips
    from ..training.actalker_kept_latents import kept_latents, latents_digest, latents_path
    from ..training.actalker_run import small_parameters

    sizes = autoencoder_parameters(options.autoencoder)
    clips = read_clips(options.clips)
    if parameters is None:
        parameters = small_parameters(*clips[0].audio.shape[2:], options.layer or PER_FRAME)
    require_fitting_clips(clips, parameters)
    require_fitting_autoencoder(sizes, parameters)
    autoencoder = load_video_autoencoder(options.autoencoder).to(device)
    digest = latents_digest(clips, autoencoder)
    latents = kept_latents(latents_path(options.clips), clips, autoencoder, digest, host().progress(1).update)
    return Material(TrainingClips(clips, latents, autoencoder.config.scaling_factor), parameters, digest)


def require_fitting_clips(clips: Sequence[ControlledClip], parameters: ACTalkerParameters) -> None:
    """Raise ValueError unless the model hears what the clips hold."""
    heard, hears = clips[0].audio.shape[2:], (parameters.audio.layers, parameters.audio.channels)
    if heard != hears:
        raise ValueError(
            f"the clips hold {heard[0]} layers of {heard[1]} channels of the listener, but the model hears {hears[0]} "
            f"of {hears[1]}: give clips of the kind it began with"
        )


def require_fitting_autoencoder(sizes: VideoAutoencoderParameters, parameters: ACTalkerParameters) -> None:
    """Raise ValueError unless the model works on latents of the autoencoder's size."""
    made = (sizes.latent_channels, sizes.reduction)
    wanted = (parameters.unet.latent_channels, parameters.pose.stride)
    if made != wanted:
        raise ValueError(
            f"the autoencoder gives {made[0]} channels, {made[1]} times smaller than pictures, but the model takes "
            f"{wanted[0]}, {wanted[1]} times smaller: give one of 'talking-portrait train actalker autoencoder'"
        )


def export_model(options: argparse.Namespace) -> int:
    """Write the averaged weights of a checkpoint, and the file's path to stdout."""
    from ..training.actalker_run import ACTalkerCheckpoint, export
    from ..training.checkpoint_file import run_checkpoint

    checkpoint = ACTalkerCheckpoint.read(run_checkpoint(options.source))
    export(checkpoint.averaged_model(), options.out, checkpoint.facts, options.half)
    sys.stdout.write(f"{options.out}\n")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Make clips of held-out people under all settings of the gates, and write what followed what to stdout."""
    from ..core_models.video_diffusion.actalker.loading import load_actalker
    from ..core_models.video_diffusion.autoencoder import autoencoder_parameters, load_video_autoencoder
    from ..training.actalker_data import read_clips
    from ..training.actalker_evaluation import measured, trials_of
    from ..training.actalker_readers import load_frame_reader

    prepared_device(options)
    require_at_least_one(options, ("trials", "steps"))
    model = load_actalker(options.model)
    require_fitting_autoencoder(autoencoder_parameters(options.autoencoder), model.parameters_used)
    clips = read_clips(options.clips)
    require_fitting_clips(clips, model.parameters_used)
    found = measured(
        model,
        load_video_autoencoder(options.autoencoder),
        load_frame_reader(options.reader),
        trials_of(clips, options.trials),
        options.steps,
        options.seed,
        progress=host().progress(1).update,
    )
    sys.stdout.write(f"{json.dumps(found, indent=2) if options.json else measures_table(found)}\n")
    return 0


def measures_table(found: Mapping[str, Mapping[str, float]]) -> str:
    """Return {setting: {measure: value}} as lines of text: a row for each measure, a column for each setting."""
    measures = list(dict.fromkeys(name for values in found.values() for name in values))
    columns = [["", *measures]]
    for setting, values in found.items():
        columns.append([setting, *(f"{values[name]:.3f}" if name in values else "-" for name in measures)])
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return "\n".join(
        "  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in rows
    )
