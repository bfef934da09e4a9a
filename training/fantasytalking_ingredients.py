"""What the small FantasyTalking's clips and autoencoder are made with where nothing else is said."""

from __future__ import annotations

from .fantasytalking_autoencoder import WanAutoencoderTrainingParameters
from .fantasytalking_data import CLIP_FRAMES

TRAINING_PEOPLE, HELD_OUT_PEOPLE = 200, 16
CLIPS_EACH, FRAMES = 2, CLIP_FRAMES
TRAINING_SEED, HELD_OUT_SEED = 11, 20250404
"""Whence sentences and movements are drawn; held-out people say other ones."""
AUTOENCODER_RECIPE = WanAutoencoderTrainingParameters()
"""About half an hour on one core."""
