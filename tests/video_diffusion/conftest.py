"""A small model of the release's branches, and what LoRA files for it hold."""

import copy

import pytest

from ..small_low_rank import drawn_pairs
from .fantasytalking_models import RELEASE_LIKE, new_model
from .low_rank_checks import LAYERS, RANK


@pytest.fixture(scope="module")
def untouched():
    """A small model of the release's branches; tests copy it."""
    return new_model(RELEASE_LIKE)


@pytest.fixture
def model(untouched):
    """A copy of it that a test may change."""
    return copy.deepcopy(untouched)


@pytest.fixture(scope="module")
def pairs(untouched):
    """{layer: (down, up)} for the layers that LoRA files change."""
    return drawn_pairs(untouched.transformer, LAYERS, RANK)
