"""ACTalker's projections: sound, identity and motion to the tokens that its UNet attends to.

What the release computes (audio_linear, id_proj_model and vasa_linear of its files), with the published keys. The sizes
are free, so that a small model uses the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

IDENTITY_TOKENS = 1
"""Tokens of an identity; it stands where Stable Video Diffusion has its CLIP token."""


def _require_positive_sizes(parameters: object) -> None:
    for one in fields(parameters):
        value = getattr(parameters, one.name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(
                f"{type(parameters).__name__}.{one.name} is {value!r}, expected a whole number >= 1"
            )


@dataclass(frozen=True)
class AudioProjectionParameters:
    """Sizes; the defaults are the published ones.

    rows, layers, channels: of a frame's window of speech features. hidden: of the two inner layers. tokens, width: what
    comes out. Raises ValueError for anything but whole numbers above 0.
    """

    rows: int = 10
    layers: int = 5
    channels: int = 384
    hidden: int = 1024
    tokens: int = 32
    width: int = 1024

    def __post_init__(self) -> None:
        _require_positive_sizes(self)


@dataclass(frozen=True)
class IdentityProjectionParameters:
    """Sizes; the defaults are the published ones.

    features: of a face recognition embedding. hidden: of the two inner layers. width: of the token.
    Raises ValueError for anything but whole numbers above 0.
    """

    features: int = 512
    hidden: int = 1024
    width: int = 1024

    def __post_init__(self) -> None:
        _require_positive_sizes(self)


@dataclass(frozen=True)
class MotionProjectionParameters:
    """Sizes; the defaults are the published ones.

    features: numbers that are projected, the expression. kept: numbers after these that enter the token as they are,
    the head's rotation in degrees. zeroed: numbers after these that enter it as 0, the head's translation. width: of
    the token, more than kept + zeroed. Raises ValueError for sizes that do not fit.
    """

    features: int = 512
    kept: int = 3
    zeroed: int = 3
    width: int = 1024

    def __post_init__(self) -> None:
        if self.features < 1 or min(self.kept, self.zeroed) < 0 or self.projected < 1:
            raise ValueError(
                f"a motion token of {self.width} numbers with {self.kept} kept and {self.zeroed} zeroed ones leaves "
                f"{self.projected} for {self.features} projected features, expected at least 1 of each"
            )

    @property
    def projected(self) -> int:
        """Numbers of the token that come from the projection."""
        return self.width - self.kept - self.zeroed

    @property
    def motion_size(self) -> int:
        """Numbers of a frame's motion."""
        return self.features + self.kept + self.zeroed


class AudioProjection(nn.Module):
    """A window of speech features to tokens: two hidden layers with ReLU, a linear layer, layer norm of each token."""

    def __init__(self, parameters: AudioProjectionParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or AudioProjectionParameters()
        self.proj1 = nn.Linear(p.rows * p.layers * p.channels, p.hidden)
        self.proj2 = nn.Linear(p.hidden, p.hidden)
        self.proj3 = nn.Linear(p.hidden, p.tokens * p.width)
        self.norm = nn.LayerNorm(p.width)

    def forward(self, windows: Tensor) -> Tensor:
        """Return tokens (..., tokens, width) of windows (..., rows, layers, channels).

        Raises ValueError for windows of another shape.
        """
        p = self.parameters_used
        if windows.ndim < 3 or tuple(windows.shape[-3:]) != (p.rows, p.layers, p.channels):
            raise ValueError(
                f"windows of speech features have shape {tuple(windows.shape)}, expected (..., {p.rows}, {p.layers}, "
                f"{p.channels}): rows, layers and channels of the encoder that this projection was trained with"
            )
        hidden = torch.relu(self.proj1(windows.flatten(-3)))
        hidden = torch.relu(self.proj2(hidden))
        return self.norm(self.proj3(hidden).unflatten(-1, (p.tokens, p.width)))

    def unconditional(self) -> Tensor:
        """Return the tokens (1, tokens, width) of no sound: those of features that are all 0."""
        p, weight = self.parameters_used, self.proj1.weight
        return self(weight.new_zeros(1, p.rows, p.layers, p.channels))


class IdentityProjection(nn.Module):
    """A face recognition embedding to one token: two hidden layers with ReLU and a linear layer."""

    def __init__(self, parameters: IdentityProjectionParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or IdentityProjectionParameters()
        self.proj1 = nn.Linear(p.features, p.hidden)
        self.proj2 = nn.Linear(p.hidden, p.hidden)
        self.proj3 = nn.Linear(p.hidden, p.width)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return a token (..., width) for each embedding (..., features). Raises ValueError for another size."""
        features = self.parameters_used.features
        if embeddings.ndim < 1 or embeddings.shape[-1] != features:
            raise ValueError(
                f"identity embeddings have shape {tuple(embeddings.shape)}, expected (..., {features}): those of the "
                "face recognition network that this projection was trained with"
            )
        hidden = torch.relu(self.proj1(embeddings))
        return self.proj3(torch.relu(self.proj2(hidden)))


class MotionProjection(nn.Module):
    """Expression and head pose of a frame to one token.

    The expression goes through a linear layer and layer norm; the head's rotation is appended as it is, and zeros for
    its translation, which never reaches the model.
    """

    def __init__(self, parameters: MotionProjectionParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or MotionProjectionParameters()
        self.proj1 = nn.Linear(p.features, p.projected)
        self.norm = nn.LayerNorm(p.projected)

    def forward(self, motion: Tensor) -> Tensor:
        """Return a token (..., width) for each frame's motion (..., features + kept + zeroed).

        Raises ValueError for another size.
        """
        p = self.parameters_used
        if motion.ndim < 1 or motion.shape[-1] != p.motion_size:
            raise ValueError(
                f"motion has shape {tuple(motion.shape)}, expected (..., {p.motion_size}): {p.features} numbers of "
                f"expression, {p.kept} of rotation and {p.zeroed} of translation"
            )
        features, kept, zeroed = motion.split((p.features, p.kept, p.zeroed), dim=-1)
        return torch.cat([self.norm(self.proj1(features)), kept, torch.zeros_like(zeroed)], dim=-1)

    def unconditional(self) -> Tensor:
        """Return the token (1, width) of no motion: that of features and rotation that are all 0."""
        return self(self.proj1.weight.new_zeros(1, self.parameters_used.motion_size))
