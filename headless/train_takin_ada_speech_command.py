"""`talking-portrait train takin-ada`, the second stage: clips out of videos, training, and the weight file.

It stands here and not in `training`, because it finds the published networks through `runtime`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..runtime.host import host
from .train_kdtalker_command import FACE_BUNDLE
from .training_options import add_export, option_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.keypoint_diffusion.takin_ada import TakinADAParameters
    from ..training.kdtalker_extraction import ExtractionNetworks, ExtractionSettings
    from ..training.pocket_data import Recording
    from ..training.takin_ada_speech import SpeechSource, TakinADASpeechTrainingParameters
    from ..training.takin_ada_speech_run import SpeechCheckpoint, TakinADASpeechTrainer

SHORTEST_CLIP = 50
"""Frames; two seconds. Training fills up what is shorter than its window."""
MADE_PERFORMANCES = 4
"""Emotions in which each recording is performed, unless asked otherwise."""
_DOWNLOAD_ADVICE = "This command fetches them with --download"
_WHOLE = ("steps", "batch", "warmup_steps", "seed")
_RECIPE = (
    *_WHOLE,
    "learning_rate",
    "clip_norm",
    "average_decay",
    "emotion_dropout",
    "heard_emotion_share",
    "start_dropout",
    "given_share",
    "pose_weight",
    "emotion_weight",
    "closure_weight",
)


def add_speech_actions(actions: argparse._SubParsersAction) -> None:
    """Add `extract`, `speech` and `export` to the actions of `talking-portrait train takin-ada`."""
    _add_extract(actions)
    _add_speech(actions)
    add_export(actions, export_speech, prefix="stage 2: ")


def _add_extract(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "extract", help="stage 2: videos to clips of motion and what HuBERT hears; goes on where it ended"
    )
    parser.add_argument("videos", type=Path, metavar="VIDEOS", help="folder of videos, subfolders included")
    parser.add_argument("--out", type=Path, required=True, metavar="DATA", help="folder for the clips")
    parser.add_argument(
        "--labels", type=Path, metavar="X.csv", help="which emotion a file shows: file, emotion, strength"
    )
    parser.add_argument("--hubert", choices=("large", "base"), default="large", help="default: %(default)s")
    parser.add_argument(
        "--face-index",
        type=int,
        metavar="N",
        help="where a video begins with several faces: 0 takes the largest",
    )
    parser.add_argument(
        "--shortest", type=int, default=SHORTEST_CLIP, metavar="FRAMES", help="default: %(default)s"
    )
    parser.add_argument("--download", action="store_true", help="fetch networks that are missing")
    parser.set_defaults(action=extract)


def _add_speech(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "speech", help="stage 2: train speech to motion; the defaults are the paper's sizes"
    )
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="folder of clips")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    parser.add_argument("--streaming", action="store_true", help="a network that hears a bounded time ahead")
    parser.add_argument("--small", action="store_true", help="a small network, for a processor or a trial")
    parser.add_argument(
        "--made", action="store_true", help="no DATA: the small blendshape model, from synthetic speech"
    )
    parser.add_argument(
        "--recordings", type=Path, metavar="X.npz", help="of --made: read from there, or kept there"
    )
    parser.add_argument(
        "--performances", type=int, metavar="N", help="of --made: of each recording (default: 4)"
    )
    parser.add_argument("--scale", type=float, help="of --made: share of the recordings, for a trial")
    for name in _RECIPE:
        parser.add_argument(option_of(name), type=int if name in _WHOLE else float, metavar="N")
    parser.add_argument("--annealed", action="store_const", const=True, help="lead the learning rate to 0")
    parser.add_argument("--precision", help="float32 or bfloat16 (products only)")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop there; --resume goes on later")
    parser.add_argument("--minutes", type=float, help="stop after so long; --resume goes on later")
    parser.add_argument(
        "--checkpoint-every", type=int, default=1000, metavar="STEPS", help="default: %(default)s"
    )
    parser.add_argument("--log-every", type=int, default=100, metavar="STEPS", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.set_defaults(action=train_speech)


def extract(options: argparse.Namespace) -> int:
    """Extract the clips; their folder goes to stdout, bad videos to stderr. Raises ValueError when none is usable."""
    from ..training.kdtalker_extraction import extract_dataset, summary, video_files
    from ..training.takin_ada_extraction import TakinADAClips, read_labels

    files = video_files(options.videos, without=options.out)  # before the networks are loaded
    names = {path.relative_to(options.videos).as_posix() for path in files}
    labels = {} if options.labels is None else read_labels(options.labels, names)
    with speech_extraction_networks(options) as (networks, settings):
        kind = TakinADAClips(networks.speech_encoder, f"hubert_{options.hubert}", labels)
        bar = host().progress(1)
        reports = extract_dataset(options.videos, options.out, networks, settings, bar.update, kind)
    sys.stderr.write(summary(reports) + "\n")
    sys.stdout.write(f"{options.out}\n")
    return 0


@contextmanager
def speech_extraction_networks(
    options: argparse.Namespace,
) -> Iterator[tuple[ExtractionNetworks, ExtractionSettings]]:
    """Give the published networks and the settings they make. Raises WeightNotFoundError saying how to get them."""
    from ..core_models.face.landmarker import FaceLandmarker
    from ..runtime.renderer_models import motion_extractor, motion_extractor_handle
    from ..runtime.speech_encoders import hubert_handle, hubert_network, hubert_rows
    from ..runtime.weight_files import found_files
    from ..runtime.weights import fetch_weight, find_weight
    from ..training.kdtalker_extraction import ExtractionNetworks, ExtractionSettings
    from ..weights_manifest.checksums import file_sha256

    system, update = f"hubert_{options.hubert}", host().progress(1).update
    bundle = Path((fetch_weight if options.download else find_weight)(FACE_BUNDLE))
    handle = motion_extractor_handle(options.download, update)
    found_files(hubert_rows(system), system, None, _DOWNLOAD_ADVICE, options.download, update)
    if options.download:
        fetch_weight(f"{system}_preprocessor")
    hears = hubert_handle(system)
    paths = {FACE_BUNDLE: bundle, "motion_extractor": Path(handle.path), "speech_encoder": Path(hears.path)}
    settings = ExtractionSettings(
        face_index=options.face_index,
        shortest=options.shortest,
        networks={name: file_sha256(path) for name, path in paths.items()},
    )
    with motion_extractor(handle) as extractor, hubert_network(hears) as hubert:
        yield ExtractionNetworks(FaceLandmarker(bundle), extractor, hubert), settings


class Material(NamedTuple):
    """What a run learns from: clips, sizes for them, and weights to begin with, by the model's names."""

    clips: Sequence[SpeechSource]
    parameters: TakinADAParameters
    start: Mapping[str, Tensor] | None = None


def train_speech(options: argparse.Namespace) -> int:
    """Train, or go on, and write the checkpoint's path to stdout."""
    import torch

    from ..training.checkpoint_file import CHECKPOINT_FILE, remove_unfinished
    from ..training.kdtalker_run import only_process
    from ..training.stepwise_training import fit

    _require_one_source(options)
    if options.threads is not None:
        torch.set_num_threads(max(1, options.threads))
    device = host().device(options.device)
    checkpoint = options.out / CHECKPOINT_FILE
    trainer = (
        _continued(checkpoint, options, device) if options.resume else _begun(checkpoint, options, device)
    )
    with only_process(options.out):
        remove_unfinished(options.out)
        fit(
            trainer,
            checkpoint,
            options.checkpoint_every,
            options.log_every,
            host().progress(1).update,
            options.until,
            options.minutes,
        )
    sys.stdout.write(f"{checkpoint}\n")
    return 0


def _require_one_source(options: argparse.Namespace) -> None:
    if options.made == (options.data is not None):
        raise ValueError("give a folder of clips to learn from, or --made, and not both")
    if options.made and options.small:
        raise ValueError("--made trains a small network of its own sizes: leave out --small")
    of_made = [name for name in ("recordings", "performances", "scale") if getattr(options, name) is not None]
    if of_made and not options.made:
        raise ValueError(f"{', '.join(map(option_of, of_made))} is only for --made")


def _begun(checkpoint: Path, options: argparse.Namespace, device: Any) -> TakinADASpeechTrainer:
    from ..training.takin_ada_speech_run import TakinADASpeechTrainer

    if checkpoint.exists():
        raise ValueError(f"{options.out} holds a run already: go on with --resume, or choose another folder")
    recipe = speech_recipe(options)
    material = _material(options, recipe.seed)
    return TakinADASpeechTrainer(material.parameters, recipe, material.clips, material.start, device)


def _continued(path: Path, options: argparse.Namespace, device: Any) -> TakinADASpeechTrainer:
    from ..training.checkpoint_file import run_checkpoint
    from ..training.takin_ada_speech_dataset import require_fitting_clips
    from ..training.takin_ada_speech_run import (
        SpeechCheckpoint,
        TakinADASpeechTrainer,
    )

    checkpoint = SpeechCheckpoint.read(run_checkpoint(path.parent))
    require_same_run(checkpoint, options)
    clips = _material(options, checkpoint.recipe.seed).clips
    if not options.made:
        require_fitting_clips(clips, checkpoint.parameters)
    return TakinADASpeechTrainer.from_checkpoint(checkpoint, clips, device)


def require_same_run(checkpoint: SpeechCheckpoint, options: argparse.Namespace) -> None:
    """Raise ValueError naming every size and part of the recipe that is given otherwise than the checkpoint has it."""
    from ..core_models.keypoint_diffusion.takin_ada import streaming
    from ..training.takin_ada_speech_run import small_speech_parameters

    sizes, kept = checkpoint.parameters, vars(checkpoint.recipe)
    given = _given_recipe(options).items()
    other = [
        f"{option_of(name)} {value} (it is {kept[name]})" for name, value in given if value != kept[name]
    ]
    if options.made != (sizes.listener is not None):
        other.append("--made (it is not)" if options.made else "DATA (it is --made)")
    if options.streaming and streaming(sizes) != sizes:
        other.append("--streaming (it hears whole clips)")
    if options.small and streaming(small_speech_parameters(sizes)) != streaming(sizes):
        other.append("--small (it is of other sizes)")
    if other:
        raise ValueError(
            f"a run goes on as it began, but these differ from the checkpoint: {', '.join(other)}. Leave them out, or "
            "begin a new run in another folder"
        )


def speech_recipe(options: argparse.Namespace) -> TakinADASpeechTrainingParameters:
    """Return the recipe asked for. Raises ValueError for a number outside its range."""
    from ..training.takin_ada_speech import TakinADASpeechTrainingParameters

    return TakinADASpeechTrainingParameters(**_given_recipe(options))


def _given_recipe(options: argparse.Namespace) -> dict[str, Any]:
    names = (*_RECIPE, "annealed", "precision")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _material(options: argparse.Namespace, seed: int) -> Material:
    from ..training.takin_ada_speech_dataset import open_speech_clips

    if options.made:
        return made_material(options, seed)
    clips = open_speech_clips(options.data)
    return Material(clips, speech_sizes(options, clips[0].layers, clips[0].width))


def speech_sizes(options: argparse.Namespace, layers: int, width: int) -> TakinADAParameters:
    """Return the sizes asked for, of a model that hears `layers` hidden states, `width` wide."""
    from ..core_models.keypoint_diffusion.takin_ada import TakinADAParameters, streaming
    from ..training.takin_ada_speech_run import small_speech_parameters

    sizes = replace(TakinADAParameters(), layers=layers, speech_width=width)
    sizes = small_speech_parameters(sizes) if options.small else sizes
    return streaming(sizes) if options.streaming else sizes


def made_material(options: argparse.Namespace, seed: int) -> Material:
    """Return the recordings of the embedded default's training, performed in emotions, and the small model's sizes."""
    from ..core_models.keypoint_diffusion.loading import load_pocket
    from ..core_models.keypoint_diffusion.takin_ada import TakinADAModel
    from ..training.takin_ada_pocket_data import listener_weights, performed_clips, pocket_sized

    performances = MADE_PERFORMANCES if options.performances is None else options.performances
    if performances < 1:
        raise ValueError(f"--performances is {performances}, expected at least 1")
    pocket = load_pocket()
    parameters, start = pocket_sized(pocket), listener_weights(pocket)
    listening = TakinADAModel(parameters)
    listening.load_state_dict({**listening.state_dict(), **start})
    clips = performed_clips(listening.eval(), _recordings(options, seed), performances, seed)
    return Material(clips, parameters, start)


def _recordings(options: argparse.Namespace, seed: int) -> list[Recording]:
    from ..training.pocket_data import load_recordings, make_training_recordings, save_recordings

    if options.recordings is not None and options.recordings.exists():
        return load_recordings(options.recordings)
    scale = 1.0 if options.scale is None else options.scale
    if not scale > 0:
        raise ValueError(f"--scale is {scale}, expected a number above 0")
    made = make_training_recordings(seed, scale)
    if options.recordings is not None:
        options.recordings.parent.mkdir(parents=True, exist_ok=True)
        save_recordings(made, options.recordings)
    return made


def export_speech(options: argparse.Namespace) -> int:
    """Write the averaged weights of a checkpoint, and the file's path to stdout."""
    from ..training.checkpoint_file import run_checkpoint
    from ..training.takin_ada_speech_run import SpeechCheckpoint, export

    checkpoint = SpeechCheckpoint.read(run_checkpoint(options.source))
    export(checkpoint.averaged_model(), options.out, checkpoint.facts, options.half)
    sys.stdout.write(f"{options.out}\n")
    return 0
