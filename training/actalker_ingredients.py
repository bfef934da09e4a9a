"""What the small ACTalker's clips, autoencoder and reader are made with where nothing else is said."""

from __future__ import annotations

from .autoencoder_training import AutoencoderTrainingParameters

TRAINING_PEOPLE, HELD_OUT_PEOPLE = 200, 16
CLIPS_EACH, SECONDS = 2, 3.0
TRAINING_SEED, HELD_OUT_SEED = 7, 20250402
"""Whence sentences and movements are drawn; held-out people say other ones."""
AUTOENCODER_RECIPE = AutoencoderTrainingParameters(steps=2200, clips=2, frames=4, precision="bfloat16")
"""13 minutes on one core."""
READER_STEPS = 1500
READER_CLIPS = 200
