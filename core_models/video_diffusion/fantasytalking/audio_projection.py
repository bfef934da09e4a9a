"""FantasyTalking's audio projection: features of speech to the tokens that its attention reads.

What the release computes (proj_model of its file), with the published keys. The sizes are free, so that a small model
uses the same class; one that listens to several layers of an encoder learns their weights as well.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from ...audio.hubert_layers import WeightedLayers


@dataclass(frozen=True)
class AudioProjectionParameters:
    """Sizes; the defaults are the published ones.

    channels: of a layer of features. width: of a token. layers: of features; more than one are summed with learned
    weights first. places: longest window whose tokens are told their place among those that are there; 0, the
    published, tells none: to attention a window is then a heap without order, which a small model hears little in.
    Raises ValueError for anything but whole numbers above 0, places at least 0.
    """

    channels: int = 768
    width: int = 2048
    layers: int = 1
    places: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):
            value, least = getattr(self, one.name), 0 if one.name == "places" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(
                    f"{type(self).__name__}.{one.name} is {value!r}, expected a whole number >= {least}"
                )


class AudioProjection(nn.Module):
    """Features to tokens, each for itself: a sum over layers where there are several, a linear layer, layer norm."""

    def __init__(self, parameters: AudioProjectionParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or AudioProjectionParameters()
        if p.layers > 1:
            self.layer_weights = WeightedLayers(p.layers)
        self.proj = nn.Linear(p.channels, p.width, bias=False)
        self.norm = nn.LayerNorm(p.width)
        if p.places:
            self.places = nn.Parameter(torch.zeros(p.places, p.width))

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens (..., T, width) of features (..., T, layers, channels), such as AudioEmbedding.features.

        Raises ValueError for features of another shape.
        """
        p = self.parameters_used
        if features.ndim < 3 or tuple(features.shape[-2:]) != (p.layers, p.channels):
            raise ValueError(
                f"features of speech have shape {tuple(features.shape)}, expected (..., T, {p.layers}, {p.channels}): "
                "those of the encoder that this projection was trained with"
            )
        return self.norm(self.proj(self._one_layer(features)))

    def placed(self, windows: Tensor) -> Tensor:
        """Return windows (B, F, W, width) whose tokens know their place in them; in a model without places, as given.

        Sound of a whole clip (B, L, width) is left as it is. Raises ValueError for windows longer than the places.
        """
        places = self.parameters_used.places
        if not places or windows.ndim != 4:
            return windows
        if windows.shape[2] > places:
            raise ValueError(f"windows have {windows.shape[2]} tokens, but the model knows {places} places")
        return windows + self.places[: windows.shape[2]]

    def _one_layer(self, features: Tensor) -> Tensor:
        if self.parameters_used.layers == 1:
            return features.squeeze(-2)
        shares = self.layer_weights.shares().to(features.dtype)
        return torch.einsum("l,...lc->...c", shares, features)
