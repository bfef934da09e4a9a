"""LivePortrait's stitching and retargeting networks: small corrections of the driving keypoints.

Source: LivePortrait (arXiv 2407.03168) section 3.3; keys are the published ones below the three names.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn


@dataclass(frozen=True)
class RetargetingParameters:
    """Numbers that go in, widths of the layers between, numbers that come out."""

    input_size: int
    hidden_sizes: tuple[int, ...]
    output_size: int


STITCHING_PARAMETERS = RetargetingParameters(126, (128, 128, 64), 65)
LIP_PARAMETERS = RetargetingParameters(65, (128, 128, 64), 63)
EYE_PARAMETERS = RetargetingParameters(66, (256, 256, 128, 128, 64), 63)


class RetargetingNetwork(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, parameters: RetargetingParameters) -> None:
        super().__init__()
        self.parameters_used = parameters
        sizes = [parameters.input_size, *parameters.hidden_sizes, parameters.output_size]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.mlp = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, output_size) of (B, input_size)."""
        return self.mlp(x)


class RetargetingNetworks(nn.Module):
    """The three networks of the published file.

    stitching: source then driving keypoints (63 + 63) to 63 offsets of the driving keypoints and an offset of all in
    x and y. eye: source keypoints and the ratios source left, source right, wanted to 63 offsets. lip: source
    keypoints and the ratios source, wanted to 63 offsets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stitching = RetargetingNetwork(STITCHING_PARAMETERS)
        self.lip = RetargetingNetwork(LIP_PARAMETERS)
        self.eye = RetargetingNetwork(EYE_PARAMETERS)
