"""The pocket model: KDTalker's denoiser at a small size over blendshapes and head pose.

Speech determines the mouth, so the mouth is estimated directly; what speech does not determine (head,
brows, lids' tension) is sampled by diffusion, with the mouth known at every step. Sampled motion is
relative to the rest of the emotion shown, so that an emotion can change at any moment of a clip.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from ..types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, EMOTION_NAMES
from .denoiser import Denoiser, DenoiserParameters
from .speech_encoder import SpeechEncoder, SpeechEncoderParameters

POCKET_FPS = 25
POSE_SIZE = 6
MOTION_SIZE = len(BLENDSHAPE_NAMES) + POSE_SIZE
POCKET_EMOTIONS = EMOTION_NAMES[:6]
"""The emotions it was trained on; "fearful" is Takin-ADA's."""

SAMPLED_NAMES = tuple(name for name in BLENDSHAPE_NAMES if name.startswith(("brow", "eyeSquint", "eyeWide")))
"""Coefficients that are sampled; the mouth's are estimated, blinks and gaze are procedural."""


def sampled_channels() -> Tensor:
    """Return (58,) bool: the motion channels that diffusion makes."""
    chosen = torch.zeros(MOTION_SIZE, dtype=torch.bool)
    chosen[[BLENDSHAPE_INDEX[name] for name in SAMPLED_NAMES]] = True
    chosen[len(BLENDSHAPE_NAMES) :] = True
    return chosen


def pocket_denoiser_parameters() -> DenoiserParameters:
    """Return the denoiser's small parameter set."""
    return DenoiserParameters(
        motion_size=MOTION_SIZE,
        width=160,
        layers=4,
        heads=5,
        head_size=32,
        time_size=96,
        context_size=SpeechEncoderParameters().width + len(EMOTION_NAMES),
        rotary_size=16,
        previous_frames=10,
        window=64,
        prediction="x0",
        schedule="cosine",
    )


@dataclass(frozen=True)
class PocketParameters:
    """The sizes of both networks; stored in the weight file's metadata."""

    encoder: SpeechEncoderParameters = field(default_factory=SpeechEncoderParameters)
    denoiser: DenoiserParameters = field(default_factory=pocket_denoiser_parameters)

    def to_dict(self) -> dict:
        """Return plain nested dictionaries, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> PocketParameters:
        """Rebuild from `to_dict`; raises TypeError for fields that do not exist."""
        encoder = {k: tuple(v) if isinstance(v, list) else v for k, v in values["encoder"].items()}
        return cls(SpeechEncoderParameters(**encoder), DenoiserParameters(**values["denoiser"]))


class PocketModel(nn.Module):
    """Speech encoder, denoiser, and the normalisation of motion.

    emotion_rest: (7, 58), what each emotion at strength 1 adds to the sampled channels at rest.
    """

    def __init__(self, parameters: PocketParameters) -> None:
        super().__init__()
        self.parameters_used = parameters
        self.encoder = SpeechEncoder(parameters.encoder)
        self.denoiser = Denoiser(parameters.denoiser)
        self.register_buffer("motion_mean", torch.zeros(MOTION_SIZE))
        self.register_buffer("motion_std", torch.ones(MOTION_SIZE))
        self.register_buffer("emotion_rest", torch.zeros(len(EMOTION_NAMES), MOTION_SIZE))

    def normalise(self, motion: Tensor) -> Tensor:
        """(..., 58) coefficients, degrees and face units -> z-scores."""
        return (motion - self.motion_mean) / self.motion_std

    def denormalise(self, motion: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return motion * self.motion_std + self.motion_mean

    def mouth(self, features: Tensor, emotion: Tensor) -> Tensor:
        """Return the estimated expression (B, N, 52), z-scores, for features (B, N, C), emotion (B, N, 7)."""
        return self.encoder.mouth(features, emotion)

    def denoise(
        self, x: Tensor, prefix: Tensor, timesteps: Tensor, features: Tensor, emotion: Tensor
    ) -> Tensor:
        """Return the prediction for a window, (B, N, 58).

        x: (B, N, 58) noisy z-scores; prefix: (B, previous_frames, 58) clean z-scores before it;
        features (B, N, C) and emotion (B, N, 7) of the window. The canonical token is the face at rest.
        """
        rest = self.normalise(torch.zeros_like(x[:, :1]))
        tokens = torch.cat([rest, prefix, x], dim=1)
        context = torch.cat([features, emotion], dim=-1)
        empty = context.new_zeros(context.shape[0], tokens.shape[1] - x.shape[1], context.shape[2])
        return self.denoiser(tokens, timesteps, torch.cat([empty, context], dim=1))[:, -x.shape[1] :]
