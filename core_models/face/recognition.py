"""Face recognition: ArcFace (Deng et al. 2019, arXiv 1801.07698) on IResNet-50, a face to 512 numbers.

Keys are those of InsightFace's published file. What is made of a picture is what the release of ACTalker makes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..key_tables import KEY_TABLES
from ..strict_loading import load_strict

_HALVINGS = 16
"""The four stages halve a picture four times."""


@dataclass(frozen=True)
class FaceRecognitionParameters:
    """Sizes; the defaults are the published ones.

    depths, widths: blocks of each of the four stages, and their channels. features: of the embedding. picture_size:
    side in pixels of the pictures, a multiple of 16. Raises ValueError for another side or number of stages.
    """

    depths: tuple[int, ...] = (3, 4, 14, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    features: int = 512
    picture_size: int = 112

    def __post_init__(self) -> None:
        if self.picture_size < _HALVINGS or self.picture_size % _HALVINGS:
            raise ValueError(f"picture_size is {self.picture_size}, expected a multiple of {_HALVINGS}")
        if not len(self.depths) == len(self.widths) == 4:
            raise ValueError(f"expected 4 depths and widths, got {self.depths} and {self.widths}")


class RecognitionBlock(nn.Module):
    """The input plus: norm, 3x3, norm, PReLU, 3x3, norm."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H / stride, W / stride)."""
        inner = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        kept = x if self.downsample is None else self.downsample(x)
        return self.bn3(self.conv2(inner)) + kept


class FaceRecognitionNetwork(nn.Module):
    """IResNet: a face to an embedding whose direction tells who it is."""

    def __init__(self, parameters: FaceRecognitionParameters | None = None) -> None:
        super().__init__()
        self.parameters_used = p = parameters or FaceRecognitionParameters()
        self.conv1 = nn.Conv2d(3, p.widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(p.widths[0])
        self.prelu = nn.PReLU(p.widths[0])
        channels_in = (p.widths[0], *p.widths[:-1])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _stage(channels, width, depth)
            for channels, width, depth in zip(channels_in, p.widths, p.depths, strict=True)
        )
        self.bn2 = nn.BatchNorm2d(p.widths[-1])
        self.fc = nn.Linear(p.widths[-1] * (p.picture_size // _HALVINGS) ** 2, p.features)
        self.features = nn.BatchNorm1d(p.features)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return embeddings (B, features), not normalised, of RGB faces (B, 3, 112, 112) in -1..1.

        Raises ValueError for another shape.
        """
        size = self.parameters_used.picture_size
        if pictures.ndim != 4 or tuple(pictures.shape[1:]) != (3, size, size):
            raise ValueError(f"faces have shape {tuple(pictures.shape)}, expected (batch, 3, {size}, {size})")
        x = self.prelu(self.bn1(self.conv1(pictures)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))


def _stage(channels: int, width: int, depth: int) -> nn.Sequential:
    """Return a stage whose first block halves the picture."""
    further = (RecognitionBlock(width, width, 1) for _ in range(depth - 1))
    return nn.Sequential(RecognitionBlock(channels, width, 2), *further)


def load_face_recognition(
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    parameters: FaceRecognitionParameters | None = None,
) -> FaceRecognitionNetwork:
    """Return the network of a published ArcFace file, on the CPU, in evaluation mode, gradients off.

    Raises what `load_strict` raises.
    """
    network = load_strict(lambda: FaceRecognitionNetwork(parameters), path, KEY_TABLES["arcface_pth"], dtype)
    return network.requires_grad_(False)


def identity_embedding(
    network: FaceRecognitionNetwork, picture: np.ndarray, box: tuple[float, float, float, float] | np.ndarray
) -> Tensor:
    """Return who is in a box of a picture, (features,) float32 on the CPU, not normalised.

    picture: (H, W, 3) uint8 RGB. box: x, y, width, height of the face in pixels, as a detector gives it. It is not
    turned nor made square: what is in it, edges rounded to pixels and black outside the picture, is squeezed to
    112 x 112 (bilinear).
    Raises ValueError for another kind of picture, a box that is not finite, is empty or lies outside the picture, or an
    embedding that is not finite.
    """
    weight = network.fc.weight
    face = recognition_picture(picture, box, network.parameters_used.picture_size)
    pictures = torch.from_numpy(face).to(weight).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        embedding = network(pictures)[0].float().cpu()
    if not torch.isfinite(embedding).all():
        raise ValueError(
            f"the identity embedding is not finite in {weight.dtype}: load the face recognition network in float32"
        )
    return embedding


def recognition_picture(
    picture: np.ndarray, box: tuple[float, float, float, float] | np.ndarray, size: int
) -> np.ndarray:
    """Return what is in a box as the network sees it, (size, size, 3) uint8; see `identity_embedding`."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise ValueError(
            f"the picture is {picture.dtype} of shape {picture.shape}, expected (height, width, 3) uint8 RGB"
        )
    left, top, right, bottom = _edges(box)
    height, width = picture.shape[:2]
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise ValueError(
            f"the face box from ({left}, {top}) to ({right}, {bottom}) lies outside the picture of {width} x "
            f"{height} px: give the box of a face in it"
        )
    inside = Image.fromarray(picture).crop((left, top, right, bottom))
    return np.array(inside.resize((size, size), Image.Resampling.BILINEAR))


def _edges(box: tuple[float, float, float, float] | np.ndarray) -> tuple[int, int, int, int]:
    values = np.asarray(box, np.float64)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise ValueError(
            f"the face box is {box!r}, expected four finite numbers: x, y, width and height in pixels"
        )
    x, y, width, height = values.tolist()
    left, top, right, bottom = round(x), round(y), round(x + width), round(y + height)
    if right <= left or bottom <= top:
        raise ValueError(
            f"the face box {values.tolist()} holds no pixel: its width and height must be above 0"
        )
    return left, top, right, bottom
