"""`talking-portrait train kdtalker`: clips out of videos, their statistics, training, and the weight file.

It stands here and not in `training`, because it finds the published networks through `runtime`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.host import host
from .training_options import option_of

if TYPE_CHECKING:
    import torch

    from ..core_models.keypoint_diffusion.denoiser import DenoiserParameters
    from ..training.kdtalker import KDTalkerTrainingParameters
    from ..training.kdtalker_checkpoint import Checkpoint
    from ..training.kdtalker_dataset import ClipSource
    from ..training.kdtalker_extraction import ExtractionNetworks, ExtractionSettings
    from ..training.kdtalker_run import KDTalkerTrainer

FACE_BUNDLE = "face_landmarker"
NEWEST = "newest"

_SIZES = ("width", "layers", "heads", "head_size", "window")
_RECIPE = (
    "steps",
    "batch",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "clip_norm",
    "noise_probability",
    "held_out_share",
    "seed",
)
_RUN = ("checkpoint_every", "keep", "log_every", "validate_every", "validation_windows")


def main(arguments: Sequence[str]) -> int:
    """Run a subcommand and return its exit code, 0. Raises what the subcommands raise; argparse ends with 2."""
    options = build_parser().parse_args(arguments)
    return options.action(options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `parse_args` gives a namespace whose `action` runs the subcommand."""
    parser = argparse.ArgumentParser(
        prog="talking-portrait train kdtalker", description="Train KDTalker on videos of your own."
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_extract(actions)
    _add_statistics(actions)
    _add_fit(actions)
    _add_export(actions)
    return parser


def _add_extract(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "extract", help="videos to clips of motion and sound features; goes on where it ended"
    )
    parser.add_argument("videos", type=Path, metavar="VIDEOS", help="folder of videos, subfolders included")
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="folder for the clips")
    parser.add_argument(
        "--face-index",
        type=int,
        metavar="N",
        help="where a video begins with several faces: 0 takes the largest",
    )
    parser.add_argument("--shortest", type=int, default=66, metavar="FRAMES", help="default: %(default)s")
    parser.add_argument("--download", action="store_true", help="fetch networks that are missing")
    parser.set_defaults(action=extract)


def _add_statistics(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("statistics", help="mean and deviation of the clips, norm.npz")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of clips")
    parser.set_defaults(action=statistics)


def _add_fit(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("fit", help="train; the defaults are the release's recipe and sizes")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of clips with norm.npz")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="folder for checkpoints and metrics"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=NEWEST,
        metavar="CHECKPOINT",
        help="go on from the run's newest checkpoint, or from this one; sizes and recipe are the checkpoint's",
    )
    parser.add_argument("--until", type=int, metavar="STEP", help="stop there; --resume goes on later")
    parser.add_argument("--small", action="store_true", help="a small network, for a processor or a trial")
    for name in _SIZES:
        parser.add_argument(option_of(name), type=int, metavar="N")
    parser.add_argument("--no-attention", action="store_true", help="leave it out, as an ablation")
    parser.add_argument("--no-canonical-token", action="store_true", help="leave it out, as an ablation")
    for name in _RECIPE:
        parser.add_argument(option_of(name), type=_number_of(name), metavar="N")
    parser.add_argument("--precision", help="float32 or bfloat16 (products only)")
    for name in _RUN:
        parser.add_argument(option_of(name), type=int, metavar="N")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")
    parser.add_argument("--in-memory", action="store_true", help="read all clips at the start")
    parser.add_argument("--no-metrics", action="store_true", help="write nothing for TensorBoard")
    parser.set_defaults(action=fit)


def _add_export(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser("export", help="a checkpoint's weights as a file that the loader node reads")
    parser.add_argument(
        "source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run's folder (its newest) or a file"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="X.safetensors")
    parser.set_defaults(action=export)


def _number_of(name: str) -> type:
    whole = {"steps", "batch", "warmup_steps", "seed"}
    return int if name in whole else float


def extract(options: argparse.Namespace) -> int:
    """Extract the clips; their folder goes to stdout, bad videos to stderr. Raises ValueError when none is usable."""
    from ..training.kdtalker_extraction import extract_dataset, summary, video_files

    video_files(options.videos, without=options.out)  # before the networks are loaded
    with extraction_networks(options) as (networks, settings):
        bar = host().progress(1)
        reports = extract_dataset(options.videos, options.out, networks, settings, bar.update)
    sys.stderr.write(summary(reports) + "\n")
    sys.stdout.write(f"{options.out}\n")
    return 0


@contextmanager
def extraction_networks(
    options: argparse.Namespace,
) -> Iterator[tuple[ExtractionNetworks, ExtractionSettings]]:
    """Give the published networks and the settings they make. Raises WeightNotFoundError saying how to get them."""
    from ..core_models.face.landmarker import FaceLandmarker
    from ..runtime.keypoint_diffusion_models import SPEECH_ENCODER_ROW, speech_encoder
    from ..runtime.renderer_models import motion_extractor, motion_extractor_handle
    from ..runtime.weights import fetch_weight, find_weight
    from ..training.kdtalker_extraction import ExtractionNetworks, ExtractionSettings
    from ..weights_manifest.checksums import file_sha256

    find = fetch_weight if options.download else find_weight
    handle = motion_extractor_handle(options.download, host().progress(1).update)
    paths = {
        FACE_BUNDLE: Path(find(FACE_BUNDLE)),
        "motion_extractor": Path(handle.path),
        "speech_encoder": Path(find(SPEECH_ENCODER_ROW)),
    }
    settings = ExtractionSettings(
        face_index=options.face_index,
        shortest=options.shortest,
        networks={name: file_sha256(path) for name, path in paths.items()},
    )
    with motion_extractor(handle) as extractor, speech_encoder() as encoder:
        yield ExtractionNetworks(FaceLandmarker(paths[FACE_BUNDLE]), extractor, encoder), settings


def statistics(options: argparse.Namespace) -> int:
    """Work out the statistics of all clips and write the file's path to stdout."""
    from ..training.kdtalker_dataset import open_clips
    from ..training.kdtalker_statistics import dataset_statistics, write_statistics

    found = dataset_statistics(open_clips(options.data), host().progress(1).update)
    sys.stdout.write(f"{write_statistics(found, options.data)}\n")
    return 0


def fit(options: argparse.Namespace) -> int:
    """Train, or go on, and write the last checkpoint's path to stdout."""
    import torch

    from ..training.kdtalker_checkpoint import newest_checkpoint, read_checkpoint
    from ..training.kdtalker_metrics import tensorboard_metrics
    from ..training.kdtalker_run import fit as run_training
    from ..training.kdtalker_run import only_process

    if options.threads is not None:
        torch.set_num_threads(max(1, options.threads))
    device = host().device(options.device)
    if options.resume is None:
        require_new_run(options.out)
        trainer = _new_trainer(options, device)
    else:
        place = options.out if options.resume == NEWEST else Path(options.resume)
        trainer = _continued(read_checkpoint(newest_checkpoint(place)), options, device)
    with only_process(options.out):
        pass  # before the metrics of a run that is going on are written into
    open_metrics = nullcontext() if options.no_metrics else tensorboard_metrics(options.out, trainer.step)
    with open_metrics as metrics:
        last = run_training(
            trainer, options.out, _run_parameters(options), options.until, metrics, host().progress(1).update
        )
    sys.stdout.write(f"{last}\n")
    return 0


def require_new_run(run: Path) -> None:
    """Raise ValueError when a folder holds checkpoints already."""
    from ..training.kdtalker_checkpoint import checkpoints_of

    found = checkpoints_of(run)
    if found:
        raise ValueError(
            f"{run} holds a run already, trained up to step {found[-1][0]}: go on with --resume, or choose another "
            "folder"
        )


def _new_trainer(options: argparse.Namespace, device: torch.device) -> KDTalkerTrainer:
    from ..training.kdtalker_run import KDTalkerTrainer, training_data
    from ..training.kdtalker_statistics import read_dataset_statistics

    parameters, recipe = denoiser_sizes(options), training_recipe(options)
    data = training_data(_clips(options), parameters.window, recipe.held_out_share)
    return KDTalkerTrainer.begin(parameters, read_dataset_statistics(options.data), recipe, data, device)


def _continued(checkpoint: Checkpoint, options: argparse.Namespace, device: torch.device) -> KDTalkerTrainer:
    from ..training.kdtalker_run import KDTalkerTrainer, training_data

    require_same(checkpoint, options)
    data = training_data(_clips(options), checkpoint.parameters.window, checkpoint.recipe.held_out_share)
    return KDTalkerTrainer.from_checkpoint(checkpoint, data, device)


def require_same(checkpoint: Checkpoint, options: argparse.Namespace) -> None:
    """Raise ValueError naming every size and part of the recipe that is given otherwise than the checkpoint has it."""
    kept = {**vars(checkpoint.parameters), **vars(checkpoint.recipe)}
    given = {**_given_sizes(options), **_given_recipe(options)}
    other = [f"{option_of(n)} {v} (it is {kept[n]})" for n, v in given.items() if v != kept[n]]
    if other:
        raise ValueError(
            f"a run goes on as it began, but these differ from the checkpoint: {', '.join(other)}. Leave them out, or "
            "begin a new run in another folder"
        )


def _clips(options: argparse.Namespace) -> Sequence[ClipSource]:
    from ..training.kdtalker_dataset import open_clips, read_into_memory

    clips = open_clips(options.data)
    return read_into_memory(clips, host().progress(1).update) if options.in_memory else clips


def _given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _given_sizes(options: argparse.Namespace) -> dict[str, Any]:
    from ..training.kdtalker import small_denoiser_parameters

    small = vars(small_denoiser_parameters()) if options.small else {}
    absent = {name: False for name in ("attention", "canonical_token") if getattr(options, f"no_{name}")}
    return {**small, **_given(options, _SIZES), **absent}


def _given_recipe(options: argparse.Namespace) -> dict[str, Any]:
    return _given(options, (*_RECIPE, "precision"))


def denoiser_sizes(options: argparse.Namespace) -> DenoiserParameters:
    """Return the sizes asked for. Raises ValueError for sizes that do not go together."""
    from ..core_models.keypoint_diffusion.denoiser import DenoiserParameters

    sizes = _given_sizes(options)
    for name in _SIZES:
        if sizes.get(name, 1) < 1:
            raise ValueError(f"{option_of(name)} is {sizes[name]}, expected at least 1")
    if sizes.get("width", 2) % 2:
        raise ValueError(f"--width is {sizes['width']}, expected an even number")
    return DenoiserParameters(**sizes)


def training_recipe(options: argparse.Namespace) -> KDTalkerTrainingParameters:
    """Return the recipe asked for. Raises ValueError for a number outside its range."""
    from ..training.kdtalker import KDTalkerTrainingParameters

    return KDTalkerTrainingParameters(**_given_recipe(options))


def _run_parameters(options: argparse.Namespace):
    from ..training.kdtalker_run import RunParameters

    return dataclasses.replace(RunParameters(), **_given(options, _RUN))


def export(options: argparse.Namespace) -> int:
    """Write the weights of a checkpoint, and the file's path to stdout."""
    from ..training.kdtalker_checkpoint import export_checkpoint, newest_checkpoint, read_checkpoint

    export_checkpoint(read_checkpoint(newest_checkpoint(options.source)), options.out)
    sys.stdout.write(f"{options.out}\n")
    return 0
