"""What both networks that read a driving video share: a ResNet of stages with a group norm for each batch norm."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

MakeBlock = Callable[[int, int, int], nn.Module]
"""Makes a block of (channels before, width, stride)."""


class GroupNormResNet(nn.Module):
    """Convolution and pooling to a quarter of the size, the stages, the mean over the picture, a linear layer.

    The structure of He et al. (arXiv 1512.03385); the first stage keeps the size, the others halve it.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        groups: int,
        outputs: int,
        norm: str,
        make_block: MakeBlock,
        expansion: int = 1,
    ) -> None:
        """depths, widths: blocks of each stage, and their width. groups: of the first norm. outputs: numbers that come
        out. norm: the first norm's name in the published file. expansion: a block's channels over its width."""
        super().__init__()
        self._norm = norm
        self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        self.add_module(norm, nn.GroupNorm(groups, widths[0]))
        self._stages = [f"layer{index + 1}" for index in range(len(depths))]
        channels = widths[0]
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(make_block(channels, width, stride))
                channels = width * expansion
            self.add_module(self._stages[index], nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, outputs). Raises ValueError for another shape."""
        entered = F.relu(getattr(self, self._norm)(self.conv1(three_channels(pictures))))
        x = F.max_pool2d(entered, 3, stride=2, padding=1)
        for name in self._stages:
            x = getattr(self, name)(x)
        return self.fc(x.mean(dim=(2, 3)))


def three_channels(pictures: Tensor) -> Tensor:
    """Return pictures (B, 3, H, W) as they are. Raises ValueError for another shape."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or 0 in pictures.shape:
        raise ValueError(
            f"pictures have shape {tuple(pictures.shape)}, expected (batch, 3, height, width), none of them 0"
        )
    return pictures
