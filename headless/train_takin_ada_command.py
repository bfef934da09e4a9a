"""`talking-portrait train takin-ada`: the first stage, the motion space; beside it the second stage's actions.

It stands here and not in `training`, because videos need the face landmarker that `runtime` finds.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.host import host
from .train_kdtalker_command import FACE_BUNDLE, NEWEST, require_new_run
from .train_takin_ada_speech_command import add_speech_actions
from .training_options import option_of

if TYPE_CHECKING:
    import torch

    from ..core_models.rendering.motion_space import MotionSpaceNetworks, MotionSpaceParameters
    from ..training.perceptual_features import Vgg19Features
    from ..training.takin_ada_frames import FrameSet
    from ..training.takin_ada_motion_space import MotionSpaceTrainer
    from ..training.takin_ada_motion_space_recipe import MotionSpaceTrainingParameters
    from ..training.takin_ada_motion_space_run import MotionSpaceCheckpoint

logger = logging.getLogger(__name__)

_RECIPE = (
    "steps",
    "batch",
    "learning_rate",
    "decay_share",
    "clip_norm",
    "adversarial_ramp_steps",
    "region_weight",
    "penalty",
    "pyramid_levels",
    "seed",
)
_WEIGHTS = (
    "perceptual",
    "adversarial",
    "feature_matching",
    "equivariance",
    "keypoint_prior",
    "head_pose",
    "deformation",
    "canonical",
    "landmark",
)
_KEEPING = ("checkpoint_every", "keep", "log_every")
_TEXT, _WHOLE = {"penalty"}, {"steps", "batch", "adversarial_ramp_steps", "pyramid_levels", "seed"}


def main(arguments: Sequence[str]) -> int:
    """Run a subcommand and return its exit code, 0. Raises what the subcommands raise; argparse ends with 2."""
    options = build_parser().parse_args(arguments)
    return options.action(options)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; `parse_args` gives a namespace whose `action` runs the subcommand."""
    parser = argparse.ArgumentParser(
        prog="talking-portrait train takin-ada", description="Train Takin-ADA's stages."
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_motion_space(actions)
    add_speech_actions(actions)
    return parser


def _add_motion_space(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "motion-space", help="stage 1: networks that read a picture's motion and draw another with it"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--frames", type=Path, required=True, metavar="X.safetensors", help=_FRAMES_HELP)
    parser.add_argument(
        "--videos", type=Path, metavar="FOLDER", help="make the frames from videos, not made heads"
    )
    parser.add_argument("--download", action="store_true", help="fetch the face landmarker if it is missing")
    parser.add_argument("--identities", type=int, default=300, help=_HEADS_HELP)
    parser.add_argument("--clips", type=int, default=2, help="of each made head (default: %(default)s)")
    parser.add_argument("--clip-frames", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="64 px pictures and a recipe for one core")
    parser.add_argument("--vgg19", type=Path, metavar="FILE", help=_VGG_HELP)
    parser.add_argument("--start-from", type=Path, metavar="FOLDER|FILE", help=_START_HELP)
    parser.add_argument("--guided", type=int, nargs="+", metavar="KEYPOINT", help=_GUIDED_HELP)
    parser.add_argument(
        "--transform", choices=("without_scale", "liveportrait"), help="default: without_scale"
    )
    parser.add_argument(
        "--resume", nargs="?", const=NEWEST, metavar="CHECKPOINT", help="go on (default: the newest)"
    )
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--until", type=int, metavar="STEP", help="stop at this step")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    for name in (*_RECIPE, *_KEEPING):
        kind = str if name in _TEXT else int if name in _WHOLE or name in _KEEPING else float
        parser.add_argument(option_of(name), type=kind)
    for name in (*_WEIGHTS, "canonical_ramp_steps"):
        kind = int if name == "canonical_ramp_steps" else float
        parser.add_argument(
            _weight_option(name), type=kind, help="0 leaves the term out" if kind is float else None
        )
    parser.set_defaults(action=train_motion_space)


_FRAMES_HELP = "frames to learn from; made first, from made heads or --videos, if there is no such file"
_START_HELP = (
    "LivePortrait's published files: appearance_feature_extractor, motion_extractor, warping_module and "
)
_START_HELP += (
    "spade_generator, .safetensors or .pth (not with --small), or an earlier leg's motion_space.safetensors; not with "
    "--resume"
)
_HEADS_HELP = (
    "made heads (default: %(default)s); drawn at 256 px at most, so that larger frames of them are enlarged"
)
_VGG_HELP = "torchvision's weights, for the perceptual loss; without it random convolutions compare pictures, which is "
_VGG_HELP += "meant for --small"
_GUIDED_HELP = "keypoints that the ten landmarks guide (default: 0 to 9; 11 to 20 with --start-from)"


def _weight_option(name: str) -> str:
    return option_of(name if name == "canonical_ramp_steps" else f"{name}_weight")


def train_motion_space(options: argparse.Namespace) -> int:
    """Make the frames if need be, train or go on, and write the weight file's path to stdout.

    What can be checked without frames is checked before they are made.
    """
    import torch

    from ..training.takin_ada_motion_space_run import KeepingParameters, fit_motion_space, require_minutes

    if options.threads is not None:
        torch.set_num_threads(max(1, options.threads))
    keeping = dataclasses.replace(KeepingParameters(), **_given(options, _KEEPING))
    require_minutes(options.minutes)
    device = _device(options)
    trainer = _new_trainer(options, device) if options.resume is None else _resumed_trainer(options, device)
    written = fit_motion_space(
        trainer, options.out, keeping, options.minutes, options.until, host().progress(1).update
    )
    sys.stdout.write(f"{written}\n")
    return 0


def _device(options: argparse.Namespace) -> torch.device:
    import torch

    device = host().device(options.device)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"there is no device {device} here ({error}): give another --device") from error
    return device


def _new_trainer(options: argparse.Namespace, device: torch.device) -> MotionSpaceTrainer:
    from ..training.takin_ada_frames import FrameSampler
    from ..training.takin_ada_motion_space import MotionSpaceTrainer, frame_size
    from ..training.takin_ada_motion_space_recipe import require_recipe_for

    require_new_run(options.out)
    recipe, sizes = training_recipe(options), _sizes(options)
    require_recipe_for(recipe, sizes)
    networks, features = _begun(options, recipe.seed), _features(options, device, sizes)
    sampler = FrameSampler(training_frames(options, frame_size(sizes), recipe.seed))
    return MotionSpaceTrainer(networks, recipe, sampler, device, features)


def _resumed_trainer(options: argparse.Namespace, device: torch.device) -> MotionSpaceTrainer:
    from ..training.kdtalker_checkpoint import newest_checkpoint
    from ..training.takin_ada_frames import FrameSampler
    from ..training.takin_ada_motion_space import frame_size
    from ..training.takin_ada_motion_space_run import (
        read_motion_space_checkpoint,
        require_same_features,
        trainer_from_checkpoint,
    )

    place = options.out if options.resume == NEWEST else Path(options.resume)
    checkpoint = read_motion_space_checkpoint(newest_checkpoint(place))
    require_same_run(checkpoint, options)
    sizes = checkpoint.parameters
    features = _features(options, device, sizes)
    require_same_features(checkpoint, features)
    sampler = FrameSampler(training_frames(options, frame_size(sizes), checkpoint.recipe.seed))
    return trainer_from_checkpoint(checkpoint, sampler, device, features)


def training_frames(options: argparse.Namespace, size: int, seed: int) -> FrameSet:
    """Return the frames of the file, after making it if it is missing: of `size` pixels a side, heads by the seed."""
    from ..training.takin_ada_frame_sources import made_frames, video_frames
    from ..training.takin_ada_frames import read_frames, write_frames

    if options.frames.exists():
        return read_frames(options.frames)
    update = host().progress(1).update
    if options.videos is None:
        identities = range(options.identities)
        frames = made_frames(identities, options.clips, options.clip_frames, size, seed, progress=update)
    else:
        frames = video_frames(options.videos, _landmarker(options), size, progress=update)
    options.frames.parent.mkdir(parents=True, exist_ok=True)
    write_frames(frames, options.frames)
    return frames


def _landmarker(options: argparse.Namespace):
    from ..core_models.face.landmarker import FaceLandmarker
    from ..runtime.weights import fetch_weight, find_weight

    return FaceLandmarker((fetch_weight if options.download else find_weight)(FACE_BUNDLE))


def _sizes(options: argparse.Namespace):
    from ..core_models.motion.keypoint_transform import KeypointTransform
    from ..core_models.rendering.motion_space import published_motion_space, small_motion_space

    sizes = small_motion_space() if options.small else published_motion_space()
    if options.transform is None:
        return sizes
    return dataclasses.replace(sizes, transform=KeypointTransform.named(options.transform))


def _given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _given_recipe(options: argparse.Namespace) -> dict[str, Any]:
    guided = {} if options.guided is None else {"guided": tuple(options.guided)}
    return {**_given(options, _RECIPE), **guided}


def _given_weights(options: argparse.Namespace) -> dict[str, float]:
    given = {name: getattr(options, f"{name}_weight") for name in _WEIGHTS}
    given["canonical_ramp_steps"] = options.canonical_ramp_steps
    return {name: value for name, value in given.items() if value is not None}


def training_recipe(options: argparse.Namespace) -> MotionSpaceTrainingParameters:
    """Return the recipe asked for. Raises ValueError for a number outside its range."""
    from ..training.takin_ada_losses import GUIDED_KEYPOINTS, GUIDED_KEYPOINTS_OF_LIVEPORTRAIT
    from ..training.takin_ada_motion_space_recipe import MotionSpaceTrainingParameters, small_training_recipe

    recipe = small_training_recipe() if options.small else MotionSpaceTrainingParameters()
    published = options.start_from is not None and not options.start_from.is_file()
    guided = GUIDED_KEYPOINTS_OF_LIVEPORTRAIT if published else GUIDED_KEYPOINTS
    weights = dataclasses.replace(recipe.weights, **_given_weights(options))
    return dataclasses.replace(recipe, weights=weights, **{"guided": guided, **_given_recipe(options)})


def require_same_run(checkpoint: MotionSpaceCheckpoint, options: argparse.Namespace) -> None:
    """Raise ValueError naming all that is given otherwise than the checkpoint has it, and for `--start-from`."""
    if options.start_from is not None:
        raise ValueError("a run that goes on has its networks in its checkpoint: leave out --start-from")
    other = [*_other_sizes(checkpoint.parameters, options), *_other_recipe(checkpoint.recipe, options)]
    if other:
        raise ValueError(
            f"a run goes on as it began, but these differ from the checkpoint: {', '.join(other)}. Leave them out, or "
            "begin a new run in another folder"
        )


def _other_sizes(kept: MotionSpaceParameters, options: argparse.Namespace) -> list[str]:
    other = []
    if options.transform not in (None, kept.transform.value):
        other.append(f"--transform {options.transform} (it is {kept.transform.value})")
    if options.small and not _is_small(kept):
        other.append(f"--small (its pictures have {kept.picture_size} px)")
    return other


def _is_small(sizes: MotionSpaceParameters) -> bool:
    from ..core_models.rendering.motion_space import small_motion_space

    return dataclasses.replace(small_motion_space(), transform=sizes.transform) == sizes


def _other_recipe(kept: MotionSpaceTrainingParameters, options: argparse.Namespace) -> list[str]:
    given, weights = _given_recipe(options), _given_weights(options)
    pairs = [(option_of(name), value, getattr(kept, name)) for name, value in given.items()]
    pairs += [(_weight_option(name), value, getattr(kept.weights, name)) for name, value in weights.items()]
    return [f"{option} {value} (it is {held})" for option, value, held in pairs if value != held]


def _begun(options: argparse.Namespace, seed: int) -> MotionSpaceNetworks:
    from ..core_models.rendering.motion_space import (
        load_motion_space,
        motion_space_from_liveportrait,
        new_motion_space,
    )

    if options.start_from is None:
        return new_motion_space(_sizes(options), seed)
    if options.start_from.is_file():
        return _earlier_leg(load_motion_space(options.start_from), options)
    if options.small:
        raise ValueError("--start-from has the published sizes: leave out --small")
    return motion_space_from_liveportrait(_published_files(options.start_from), _sizes(options).transform)


def _earlier_leg(networks: MotionSpaceNetworks, options: argparse.Namespace) -> MotionSpaceNetworks:
    if networks.parameters_used != _sizes(options):
        raise ValueError(
            f"{options.start_from} has other sizes than this run: give --small and --transform as it was trained with"
        )
    return networks.train().requires_grad_(True)


def _published_files(folder: Path) -> dict[str, Path]:
    names = {
        "appearance": "appearance_feature_extractor",
        "motion_extractor": "motion_extractor",
        "warping": "warping_module",
        "generator": "spade_generator",
    }
    found = {}
    for part, stem in names.items():
        candidates = [folder / f"{stem}{suffix}" for suffix in (".safetensors", ".pth")]
        existing = [path for path in candidates if path.is_file()]
        if not existing:
            raise FileNotFoundError(f"{folder} holds neither {candidates[0].name} nor {candidates[1].name}")
        found[part] = existing[0]
    return found


def _features(
    options: argparse.Namespace, device: torch.device, sizes: MotionSpaceParameters
) -> Vgg19Features | None:
    from ..training.perceptual_features import load_vgg19

    if options.vgg19 is not None:
        return load_vgg19(options.vgg19).to(device)
    if not _is_small(sizes):
        logger.warning(
            "without --vgg19 the perceptual loss compares pictures by random convolutions, which are meant for the "
            "small model: published sizes learn better pictures with VGG-19"
        )
    return None
