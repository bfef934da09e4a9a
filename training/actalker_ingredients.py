"""What the small ACTalker's training needs beside itself, one call each: clips, a video autoencoder, a reader.

Everything lies in one folder under the names below. What is there is kept: delete it to make it again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..core_models.types import ProgressCallback
from ..core_models.video_diffusion.autoencoder import load_video_autoencoder
from .actalker_autoencoder import (
    SMALL_AUTOENCODER,
    AutoencoderTrainer,
    AutoencoderTrainingParameters,
    export_autoencoder,
)
from .actalker_data import ControlledClip, controlled_clips, embedded_listener, read_clips, write_clips
from .actalker_readers import (
    FrameReader,
    fitted_frame_reader,
    load_frame_reader,
    reconstructed,
    write_frame_reader,
)
from .made_heads.clip import HELD_OUT_IDENTITIES, TRAINING_IDENTITIES
from .stepwise_training import fit

logger = logging.getLogger(__name__)

TRAINING_CLIPS_FILE = "clips_train.npz"
HELD_OUT_CLIPS_FILE = "clips_held_out.npz"
AUTOENCODER_FILE = "autoencoder.safetensors"
AUTOENCODER_CHECKPOINT_FILE = "autoencoder_checkpoint.pt"
READER_FILE = "reader.safetensors"

TRAINING_PEOPLE, HELD_OUT_PEOPLE = 200, 16
CLIPS_EACH, SECONDS = 2, 3.0
TRAINING_SEED, HELD_OUT_SEED = 7, 20250402
"""Whence sentences and movements are drawn; held-out people say other ones."""
AUTOENCODER_RECIPE = AutoencoderTrainingParameters(steps=2200, clips=2, frames=4, precision="bfloat16")
"""13 minutes on one core."""
READER_STEPS = 1500
READER_CLIPS = 200


def training_clips(folder: Path, progress: ProgressCallback | None = None) -> tuple[ControlledClip, ...]:
    """Return the clips that are trained on, made where the folder has none yet: 400 of 3 s, of 200 people.

    In a fresh process they are the same every time. Raises what `controlled_clips` and `read_clips` raise.
    """
    people = TRAINING_IDENTITIES[:TRAINING_PEOPLE]
    return _clips(folder / TRAINING_CLIPS_FILE, people, TRAINING_SEED, progress)


def held_out_clips(folder: Path, progress: ProgressCallback | None = None) -> tuple[ControlledClip, ...]:
    """Return the clips that results are measured on: 32 of 3 s, of 16 people and in sentences no training saw.

    As for `training_clips`.
    """
    people = HELD_OUT_IDENTITIES[:HELD_OUT_PEOPLE]
    return _clips(folder / HELD_OUT_CLIPS_FILE, people, HELD_OUT_SEED, progress)


def _clips(
    path: Path, people: Sequence[int], seed: int, progress: ProgressCallback | None
) -> tuple[ControlledClip, ...]:
    if not path.is_file():
        listener = embedded_listener()
        made = controlled_clips(people, CLIPS_EACH, SECONDS, seed, listener, progress=progress)
        write_clips(path, made)
    return read_clips(path)


def trained_autoencoder(
    folder: Path,
    recipe: AutoencoderTrainingParameters = AUTOENCODER_RECIPE,
    device: str = "cpu",
    progress: ProgressCallback | None = None,
) -> Path:
    """Return the file of the small video autoencoder, trained on the folder's clips where there is none yet.

    A training that was cut short goes on from its checkpoint, with the recipe it has. Raises what `train` raises.
    """
    target, checkpoint = folder / AUTOENCODER_FILE, folder / AUTOENCODER_CHECKPOINT_FILE
    if target.is_file():
        return target
    clips = training_clips(folder)
    if checkpoint.is_file():
        trainer = AutoencoderTrainer.from_checkpoint(checkpoint, clips, device)
        logger.info("the autoencoder's training goes on from step %d", trainer.step)
    else:
        trainer = AutoencoderTrainer(SMALL_AUTOENCODER, recipe, clips, device)
    fit(trainer, checkpoint, progress=progress)
    export_autoencoder(trainer, target)
    return target


def trained_reader(folder: Path, clips: int = READER_CLIPS, steps: int = READER_STEPS) -> FrameReader:
    """Return the reader, fitted to the folder's clips as they are and as its autoencoder gives them back.

    clips: at most so many, evenly out of all. It is read from the folder where it is there.
    """
    path = folder / READER_FILE
    if not path.is_file():
        autoencoder = load_video_autoencoder(trained_autoencoder(folder))
        whole = training_clips(folder)
        chosen = whole[:: max(1, len(whole) // clips)]
        write_frame_reader(fitted_frame_reader(chosen, reconstructed(autoencoder, chosen), steps), path)
    return load_frame_reader(path)
