"""A portrait as LivePortrait's networks read it: its implicit keypoints and its appearance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ...face.crop import crop_face
from ...face.opening_ratios import opening_ratios
from ...motion.keypoint_extraction import (
    batch_size,
    batched,
    joined_readings,
    network_input,
    network_picture,
    read_keypoints,
)
from ...motion.keypoint_geometry import KeypointReadings
from ...types import Portrait, PortraitVideo, portraits_of

if TYPE_CHECKING:
    import torch

    from ...motion.motion_extractor import MotionExtractor
    from .appearance import AppearanceFeatureExtractor


def source_picture(portrait: Portrait) -> np.ndarray:
    """Return the portrait's face crop as the networks see it, (256, 256, 3) uint8. Outside the picture is black."""
    crop = crop_face(portrait.frame, portrait.crop_to_frame, portrait.crop_size, cv2.BORDER_CONSTANT)
    return network_picture(crop)


def read_portrait(
    portrait: Portrait | PortraitVideo,
    extractor: MotionExtractor,
    progress: Callable[[int, int], None] | None = None,
) -> KeypointReadings:
    """Return the implicit keypoints and opening ratios of a portrait: one reading, or one for each frame of a film."""
    portraits = portraits_of(portrait)
    parts: list[KeypointReadings] = []
    done = 0
    for batch in batched(portraits, batch_size(extractor)):
        parts.append(read_keypoints([source_picture(one) for one in batch], extractor))
        done += len(batch)
        if progress is not None:
            progress(done, len(portraits))
    openings = opening_ratios(np.stack([one.landmarks for one in portraits]))
    return replace(joined_readings(parts), openings=openings)


def appearance_features(
    portraits: Iterable[Portrait], extractor: AppearanceFeatureExtractor
) -> Iterator[torch.Tensor]:
    """Yield (1, 32, 16, 64, 64) of each portrait, where the network's weights are."""
    import torch

    for portrait in portraits:
        with torch.inference_mode():
            features = extractor(network_input([source_picture(portrait)], extractor))
        yield features
