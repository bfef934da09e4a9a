"""LivePortrait's warping module: the source's feature volume moved to the driving keypoints.

Source: LivePortrait (arXiv 2407.03168); keys are the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import ConvolutionBlock2d
from .dense_motion import DenseMotionNetwork, DenseMotionParameters

WARPED_NEGATIVE_SLOPE = 0.01


@dataclass(frozen=True)
class WarpingParameters:
    """Sizes of the warping module; the defaults describe the published file.

    out_channels: of the moved features.
    """

    out_channels: int = 256
    dense_motion: DenseMotionParameters = field(default_factory=DenseMotionParameters)


class Warped(NamedTuple):
    """out: (B, 256, H, W) moved features. The rest as in DenseMotion."""

    out: Tensor
    deformation: Tensor
    occlusion_map: Tensor
    mask: Tensor


class WarpingModule(nn.Module):
    """Dense motion, sampling, and a projection to 2-D features."""

    def __init__(self, parameters: WarpingParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or WarpingParameters()
        volume = p.dense_motion.volume_channels * p.dense_motion.volume_depth
        self.dense_motion_network = DenseMotionNetwork(p.dense_motion)
        self.third = ConvolutionBlock2d(volume, p.out_channels)
        self.fourth = nn.Conv2d(p.out_channels, p.out_channels, 1)

    def forward(self, feature_3d: Tensor, kp_driving: Tensor, kp_source: Tensor) -> Warped:
        """Return the features at the driving keypoints.

        feature_3d: (B, 32, 16, H, W) of the source; H and W divisible by 32. kp_driving, kp_source: (B, 21, 3) x, y,
        z, about -1..1.
        """
        motion = self.dense_motion_network(feature_3d, kp_driving, kp_source)
        moved = F.grid_sample(feature_3d, motion.deformation, align_corners=False)
        out = F.leaky_relu(self.third(moved.flatten(1, 2)), WARPED_NEGATIVE_SLOPE)
        return Warped(self.fourth(out) * motion.occlusion_map, *motion)
