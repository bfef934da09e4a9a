"""Strict loading of LivePortrait's published files, the original pickles and the safetensors made from them.

All raise what `load_strict` raises: FileNotFoundError, UnreadableWeightsError, WeightMismatchError with every
missing, unexpected and misshapen key. The modules come on the CPU, in evaluation mode, with gradients off.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from ...key_tables import KEY_TABLES
from ...motion.motion_extractor import MotionExtractor
from ...strict_loading import Module, load_strict
from .appearance import AppearanceFeatureExtractor
from .generator import SpadeGenerator, fold_spectral_norm
from .retargeting import RetargetingNetworks
from .warping import WarpingModule

FilePath = str | os.PathLike[str]


def load_appearance_extractor(
    path: FilePath, dtype: torch.dtype | None = torch.float32
) -> AppearanceFeatureExtractor:
    """Return the extractor of `appearance_feature_extractor`. dtype: of the weights; None keeps the file's."""
    return _loaded(AppearanceFeatureExtractor, path, dtype)


def load_motion_extractor(path: FilePath, dtype: torch.dtype | None = torch.float32) -> MotionExtractor:
    """Return the extractor of `motion_extractor`. dtype: of the weights; None keeps the file's."""
    return _loaded(MotionExtractor, path, dtype)


def load_warping_module(path: FilePath, dtype: torch.dtype | None = torch.float32) -> WarpingModule:
    """Return the module of `warping_module`. dtype: of the weights; None keeps the file's."""
    return _loaded(WarpingModule, path, dtype)


def load_generator(path: FilePath, dtype: torch.dtype | None = torch.float32) -> SpadeGenerator:
    """Return the generator of `spade_generator`, spectral norm folded into plain convolutions.

    dtype: of the weights; None keeps the file's.
    """
    return fold_spectral_norm(_loaded(SpadeGenerator, path, dtype))


def load_retargeting_networks(
    path: FilePath, dtype: torch.dtype | None = torch.float32
) -> RetargetingNetworks:
    """Return the three networks of `stitching_retargeting_module`. dtype: as elsewhere."""
    return _loaded(RetargetingNetworks, path, dtype)


def _loaded(build: Callable[[], Module], path: FilePath, dtype: torch.dtype | None) -> Module:
    table = KEY_TABLES["liveportrait_pth"]  # the same as of the safetensors
    return load_strict(build, path, table, dtype).requires_grad_(False)
