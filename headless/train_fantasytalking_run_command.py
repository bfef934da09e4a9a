"""`talking-portrait train fantasytalking`: the model's run, its reader, its weight file and its measures.

It stands here and not in `training`, because it asks `runtime` for the device and shows progress.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..runtime.host import host
from .train_actalker_command import MATERIAL_FILE, keep_digest, measures_table
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
    import torch

    from ..core_models.video_diffusion.fantasytalking.parameters import FantasyTalkingParameters
    from ..core_models.video_diffusion.wan.autoencoder import WanAutoencoderParameters
    from ..training.fantasytalking import FantasyTalkingTrainingParameters, TrainingClips
    from ..training.fantasytalking_data import TalkingClip, TalkingClips
    from ..training.fantasytalking_run import FantasyTalkingCheckpoint, FantasyTalkingTrainer

TRIALS = 16
"""Clips that are measured, unless asked otherwise."""
READER_CLIPS = 200
"""Clips that the reader learns from at most, unless asked otherwise."""
BASES = ("whole", "lora", "frozen")
"""As `training.fantasytalking.BASES` names them."""
HEARINGS = ("frames", "clip")
"""As `scene_options.HEARINGS` names them."""
_WHOLE = ("steps", "clip_level_steps", "batch", "warmup_steps", "rank", "seed")
_RECIPE = (
    *_WHOLE,
    "learning_rate",
    "weight_decay",
    "clip_norm",
    "average_decay",
    "shift",
    "lip_share",
    "dropped",
    "identity_alone",
    "intensity_dropped",
    "beyond",
)
_SWITCHES = {
    "annealed": "lead the learning rate to a tenth of a per cent (default: yes)",
    "weighted": "weigh noise levels as Wan's training does (default: no)",
    "lip_normalised": "bring the lips' loss to the scale of the whole frame's (default: yes)",
}
_SIZES = ("heads", "blocks")


def add_run_actions(actions: argparse._SubParsersAction) -> None:
    """Add `run`, `reader`, `export` and `evaluate` to the actions of `talking-portrait train fantasytalking`."""
    _add_run(actions)
    _add_reader(actions)
    add_export(actions, export_model)
    _add_evaluate(actions)


def _add_run(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("run", help="train the model; the defaults are the embedded one's")
    parser.add_argument("--clips", type=Path, required=True, metavar="X.npz", help="what it learns from")
    parser.add_argument("--autoencoder", type=Path, required=True, metavar="X.safetensors")
    parser.add_argument(
        "--begin-with",
        type=Path,
        metavar="X.safetensors",
        help="an exported model whose sizes and weights it begins with (default: random ones)",
    )
    parser.add_argument(
        "--base", choices=BASES, help="what learns of Wan itself: all, additions to its attention, nothing"
    )
    for name in _SIZES:
        parser.add_argument(option_of(name), type=int, metavar="N", help="of a new model")
    for name, text in _SWITCHES.items():
        parser.add_argument(option_of(name), action=argparse.BooleanOptionalAction, help=text)
    for name in _RECIPE:
        parser.add_argument(option_of(name), type=int if name in _WHOLE else float, metavar="N")
    add_run_options(parser, checkpoint_every=500, log_every=50)
    parser.set_defaults(action=train_model)


def _add_reader(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("reader", help="fit what reads mouth, head and person off frames")
    parser.add_argument("--clips", type=Path, required=True, metavar="X.npz", help="what it learns from")
    parser.add_argument("--autoencoder", type=Path, required=True, metavar="X.safetensors")
    parser.add_argument("--out", type=Path, required=True, metavar="X.safetensors")
    parser.add_argument("--held-out", type=Path, metavar="X.npz", help="say how well it reads these clips")
    parser.add_argument(
        "--count",
        type=int,
        default=READER_CLIPS,
        metavar="N",
        help="at most so many clips (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="of each of its parts (default: 1500, 800, 800)"
    )
    _add_measuring_options(parser)
    parser.set_defaults(action=fit_reader)


def _add_evaluate(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "evaluate", help="sync, motion and likeness on clips that training did not see"
    )
    for name in ("model", "autoencoder", "reader"):
        parser.add_argument(option_of(name), type=Path, required=True, metavar="X.safetensors")
    parser.add_argument("--clips", type=Path, required=True, metavar="X.npz", help="held-out clips")
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--hearing", choices=HEARINGS, default="frames", help="as in a stage of training (default: frames)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of the sampler (default: the model's)")
    parser.add_argument("--audio-guidance", type=float, metavar="G", help="default: the model's")
    _add_measuring_options(parser)
    parser.set_defaults(action=evaluate)


def _add_measuring_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="measures as JSON")
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )


class Material(NamedTuple):
    """What a run learns from. digest: of clips and autoencoder."""

    data: TrainingClips
    digest: str


def train_model(options: argparse.Namespace) -> int:
    """Train, or go on, and write the checkpoint's path to stdout.

    What can be checked without the clips is checked before they are read and encoded.
    """
    from ..training.checkpoint_file import CHECKPOINT_FILE, remove_unfinished
    from ..training.kdtalker_run import only_process
    from ..training.stepwise_training import fit

    device = prepared_device(options)
    require_at_least_one(options, (*RUN_NUMBERS, *_SIZES))
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


def _begun(
    checkpoint: Path, options: argparse.Namespace, device: torch.device
) -> tuple[FantasyTalkingTrainer, str]:
    from ..core_models.video_diffusion.fantasytalking.loading import (
        fantasytalking_parameters,
        load_fantasytalking_file,
    )
    from ..training.fantasytalking_run import FantasyTalkingTrainer, small_parameters

    require_new_run(checkpoint)
    recipe = training_recipe(options)
    _require_base(recipe, options)
    begin = options.begin_with
    parameters = None if begin is None else fantasytalking_parameters(begin)
    clips, sizes = _read_clips(options.clips), _autoencoder_sizes(options.autoencoder)
    if parameters is None:
        parameters = small_parameters(*clips.clips[0].heard.shape[1:], **given(options, _SIZES))
    material = _material(options, device, clips, parameters, sizes)
    start = None if begin is None else load_fantasytalking_file(begin).state_dict()
    return FantasyTalkingTrainer(parameters, recipe, material.data, device, start), material.digest


def _continued(
    path: Path, options: argparse.Namespace, device: torch.device
) -> tuple[FantasyTalkingTrainer, str]:
    from ..training.checkpoint_file import run_checkpoint
    from ..training.fantasytalking_run import FantasyTalkingCheckpoint, FantasyTalkingTrainer

    if options.begin_with is not None:
        raise ValueError("--resume goes on with the run's own weights: leave --begin-with out")
    checkpoint = FantasyTalkingCheckpoint.read(run_checkpoint(path.parent))
    require_same_run(checkpoint, options)
    clips, sizes = _read_clips(options.clips), _autoencoder_sizes(options.autoencoder)
    material = _material(options, device, clips, checkpoint.parameters, sizes)
    return FantasyTalkingTrainer.from_checkpoint(checkpoint, material.data, device), material.digest


def _require_base(recipe: FantasyTalkingTrainingParameters, options: argparse.Namespace) -> None:
    if recipe.base != BASES[0] and options.begin_with is None:
        raise ValueError(
            f"--base {recipe.base} leaves Wan as it is, but a new one has random weights: give a trained model with "
            "--begin-with"
        )
    sizes = given(options, _SIZES)
    if sizes and options.begin_with is not None:
        raise ValueError(
            f"{', '.join(map(option_of, sizes))}: the sizes are those of the model in --begin-with"
        )


def require_same_run(checkpoint: FantasyTalkingCheckpoint, options: argparse.Namespace) -> None:
    """Raise ValueError naming each size and part of the recipe that the checkpoint has otherwise."""
    wan = checkpoint.parameters.wan
    kept = {**vars(checkpoint.recipe), "heads": wan.num_attention_heads, "blocks": wan.num_layers}
    require_given_alike({**_given_recipe(options), **given(options, _SIZES)}, kept)


def training_recipe(options: argparse.Namespace) -> FantasyTalkingTrainingParameters:
    """Return the recipe asked for. Raises ValueError for a number outside its range."""
    from ..training.fantasytalking import FantasyTalkingTrainingParameters

    return FantasyTalkingTrainingParameters(**_given_recipe(options))


def _given_recipe(options: argparse.Namespace) -> dict[str, Any]:
    return given(options, (*_RECIPE, *_SWITCHES, "base"))


def _read_clips(path: Path) -> TalkingClips:
    from ..training.fantasytalking_data import read_talking_clips

    return read_talking_clips(path)


def _autoencoder_sizes(path: Path) -> WanAutoencoderParameters:
    from ..core_models.video_diffusion.wan.autoencoder import wan_autoencoder_parameters

    return wan_autoencoder_parameters(path)


def _material(
    options: argparse.Namespace,
    device: torch.device,
    clips: TalkingClips,
    parameters: FantasyTalkingParameters,
    sizes: WanAutoencoderParameters,
) -> Material:
    from ..core_models.video_diffusion.wan.autoencoder import load_wan_autoencoder
    from ..training.fantasytalking import TrainingClips
    from ..training.fantasytalking_latents import kept_latents, latents_digest, latents_path

    require_fitting_clips(clips.clips, parameters)
    require_fitting_autoencoder(sizes, parameters)
    autoencoder = load_wan_autoencoder(options.autoencoder).to(device)
    digest = latents_digest(clips.clips, autoencoder)
    latents = kept_latents(
        latents_path(options.clips), clips.clips, autoencoder, digest, host().progress(1).update
    )
    return Material(TrainingClips(clips, *latents), digest)


def require_fitting_clips(clips: Sequence[TalkingClip], parameters: FantasyTalkingParameters) -> None:
    """Raise ValueError unless the model hears what the clips hold."""
    heard, hears = clips[0].heard.shape[1:], (parameters.audio.layers, parameters.audio.channels)
    if heard != hears:
        raise ValueError(
            f"the clips hold {heard[0]} layers of {heard[1]} channels of the listener, but the model hears {hears[0]} "
            f"of {hears[1]}: give clips of the kind it began with"
        )


def require_fitting_autoencoder(
    sizes: WanAutoencoderParameters, parameters: FantasyTalkingParameters
) -> None:
    """Raise ValueError unless the model works on latents of the autoencoder's kind."""
    from ..core_models.video_diffusion.wan.frame_rules import FRAMES_PER_LATENT

    wan = parameters.wan
    made = (sizes.z_dim, sizes.frames_per_latent, sizes.pixels_per_latent)
    wanted = (wan.out_channels, FRAMES_PER_LATENT, parameters.defaults.size_multiple // wan.patch_size[1])
    if made != wanted:
        raise ValueError(
            f"the autoencoder gives {made[0]} channels, {made[1]} frames and {made[2]} pixels to a latent, but the "
            f"model takes {wanted[0]}, {wanted[1]} and {wanted[2]}: give one of 'talking-portrait train fantasytalking "
            "autoencoder'"
        )


def export_model(options: argparse.Namespace) -> int:
    """Write the averaged weights of a checkpoint, and the file's path to stdout."""
    from ..training.checkpoint_file import run_checkpoint
    from ..training.fantasytalking_run import FantasyTalkingCheckpoint, export

    checkpoint = FantasyTalkingCheckpoint.read(run_checkpoint(options.source))
    export(checkpoint.averaged_model(), options.out, checkpoint.facts, options.half)
    sys.stdout.write(f"{options.out}\n")
    return 0


def fit_reader(options: argparse.Namespace) -> int:
    """Fit the reader and write its path to stdout; how well it reads held-out clips goes to stderr."""
    from ..core_models.video_diffusion.wan.autoencoder import load_wan_autoencoder
    from ..training.fantasytalking_latents import clip_latents, frames_of_latents
    from ..training.fantasytalking_readers import (
        ReaderSteps,
        fitted_talking_reader,
        reader_quality,
        write_talking_reader,
    )

    device = prepared_device(options)
    require_at_least_one(options, ("count", "steps"))
    if options.out.suffix.lower() != ".safetensors":
        raise ValueError(f"weights are written as safetensors, but the name is {options.out.name!r}")
    if not options.out.parent.is_dir():
        raise FileNotFoundError(
            f"the folder {options.out.parent} does not exist: create it or choose another"
        )
    autoencoder = load_wan_autoencoder(options.autoencoder).to(device)
    whole = _read_clips(options.clips).clips
    held_out = () if options.held_out is None else _read_clips(options.held_out).clips
    # Stretches of clips, so that people with several are seen in several.
    chosen = whole[: options.count]
    seen = [frames_of_latents(autoencoder, clip_latents(autoencoder, clip.frames)) for clip in chosen]
    steps = ReaderSteps() if options.steps is None else ReaderSteps(*(options.steps,) * 3)
    reader = fitted_talking_reader(chosen, seen, steps, options.seed)
    write_talking_reader(reader, options.out)
    if held_out:
        quality = reader_quality(reader, held_out)
        lines = [f"{name}: {value:.3f}" for name, value in quality.items()]
        sys.stderr.write((json.dumps(quality, indent=2) if options.json else "\n".join(lines)) + "\n")
    sys.stdout.write(f"{options.out}\n")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Make clips of held-out people under all settings, and write what was measured of them to stdout."""
    from ..core_models.video_diffusion.fantasytalking.loading import load_fantasytalking_file
    from ..core_models.video_diffusion.wan.autoencoder import load_wan_autoencoder
    from ..training.fantasytalking_evaluation import EvaluationOptions, measured
    from ..training.fantasytalking_readers import load_talking_reader

    device = prepared_device(options)
    require_at_least_one(options, ("trials", "steps"))
    model = load_fantasytalking_file(options.model).to(device)
    require_fitting_autoencoder(_autoencoder_sizes(options.autoencoder), model.parameters_used)
    clips = _read_clips(options.clips).clips
    require_fitting_clips(clips, model.parameters_used)
    found: Mapping[str, Mapping[str, float]] = measured(
        model,
        load_wan_autoencoder(options.autoencoder).to(device),
        load_talking_reader(options.reader),
        clips,
        options.trials,
        EvaluationOptions(options.hearing, options.steps, options.audio_guidance, options.seed),
        host().progress(1).update,
    )
    sys.stdout.write(f"{json.dumps(found, indent=2) if options.json else measures_table(found)}\n")
    return 0
