"""A small KDTalker with random weights: fast, and everything but its taste is real."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.embedding import WAV2LIP
from talking_portrait.core_models.keypoint_diffusion.denoiser import DenoiserParameters
from talking_portrait.core_models.keypoint_diffusion.kdtalker import KDTalkerModel
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import MotionStatistics
from talking_portrait.core_models.motion.keypoint_geometry import KeypointReadings, extractor_rotation
from talking_portrait.core_models.types import AudioEmbedding

SMALL = DenoiserParameters(width=48, layers=2, heads=2, head_size=16, time_size=32, rotary_size=8)


def made_statistics() -> MotionStatistics:
    """Statistics of the size of real ones: degrees, half sides of the crop, and small expressions."""
    mean = np.concatenate([[1.5], [2.0, 3.0, 0.0], [0.0, 0.0, 0.0], np.zeros(63)])
    std = np.concatenate([[0.1], [19.0, 7.0, 7.0], [0.12, 0.06, 1.0], np.full(63, 0.01)])
    return MotionStatistics(mean, std, np.zeros(63), np.full(63, 0.1))


@pytest.fixture(scope="session")
def small_kdtalker() -> KDTalkerModel:
    torch.manual_seed(0)
    model = KDTalkerModel(SMALL, made_statistics())
    for name, value in model.named_parameters():
        if value.dim() > 1 and "gamma" not in name and "beta" not in name:
            torch.nn.init.normal_(value, std=0.7 * value[0].numel() ** -0.5)
    return model.eval().requires_grad_(False)


@pytest.fixture
def source_reading() -> KeypointReadings:
    """A frontal portrait as the motion extractor might read it."""
    rng = np.random.default_rng(3)
    return KeypointReadings(
        canonical=rng.normal(0, 0.1, (1, 21, 3)),
        expression=rng.normal(0, 0.005, (1, 21, 3)),
        rotation=extractor_rotation(np.array([[4.0, -6.0, 1.0]])),
        translation=np.array([[0.05, -0.02, 0.0]]),
        scale=np.array([1.4]),
    )


@pytest.fixture
def speech_embedding():
    """Function of a duration in seconds: Wav2Lip features of a made speech, its silent tail constant."""

    def make(seconds: float, seed: int = 0, tail: int = 64) -> AudioEmbedding:
        frames = max(1, int(np.ceil(seconds * 25 - 1e-6)))
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(frames, 512, generator=generator).abs()
        features = torch.cat([features, torch.full((tail, 512), 0.1)])
        return AudioEmbedding(features[:, None], 25.0, seconds, WAV2LIP)

    return make
