"""Driving keypoints to pictures: LivePortrait's warping module and generator as one, in their fast form.

    frames = FrameGenerator(load_warping_module(...), load_generator(...))
    source = frames.prepare(feature_3d, source_keypoints)
    pictures = images_as_bytes(frames.generate(source, driving_keypoints))

Two methods compute the same. "transformed", for processors: convolutions with a fraction of the products (Winograd,
spectra), frame by frame, in float32 or with gains and offsets in bfloat16. "direct", for GPUs: the device's own
convolutions, batched, weights in the precision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .direct_renderer import DirectGenerator, DirectWarping
from .generator import SpadeGenerator, fold_spectral_norm
from .prepared_source import Check, PreparedSource, go_on
from .transformed_generator import TransformedGenerator
from .transformed_warping import TransformedWarping
from .warping import WarpingModule

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
METHODS = ("transformed", "direct")


def default_method(device: str | torch.device, precision: str = "float32") -> str:
    """Return "transformed" for processors, which have no arithmetic for float16, and "direct" for all else."""
    on_processor = torch.device(device).type == "cpu"
    return "transformed" if on_processor and precision != "float16" else "direct"


class FrameGenerator(nn.Module):
    """Pictures of a prepared source at driving keypoints.

    Holds its own copy of the weights: the networks it was built from can be let go. `.to(dtype)` does nothing, since
    every tensor has the type that its computation needs; `.to(device)` moves all.
    """

    def __init__(
        self,
        warping_module: WarpingModule,
        generator: SpadeGenerator,
        precision: str = "float32",
        method: str | None = None,
        compiled: bool = False,
    ) -> None:
        """Take over two plain networks; the generator's spectral norm is folded in place.

        precision: "float32", "bfloat16" or "float16" (direct only), of the weights that bear it.

        method: "transformed" or "direct"; None takes the default for the device the weights are on.
        compiled: compile with torch.compile, at the first frame (direct only: the transformed method is thousands of
        small steps, which take longer to compile than a video to draw). Raises ValueError for other words.
        """
        super().__init__()
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.method = method or default_method(warping_module.fourth.weight.device, precision)
        if self.method not in METHODS:
            raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
        if self.method == "transformed" and precision == "float16":
            raise ValueError("the transformed method has no float16; use bfloat16 or the direct method")
        if self.method == "transformed" and compiled:
            raise ValueError(
                "the transformed method cannot be compiled; leave compiled off or use the direct method"
            )
        self.precision = precision
        self._build(warping_module, fold_spectral_norm(generator))
        self.requires_grad_(False).eval()
        self._compiled: Callable | None = torch.compile(self._frames) if compiled else None

    @torch.no_grad()
    def _build(self, warping_module: WarpingModule, generator: SpadeGenerator) -> None:
        weights = PRECISIONS[self.precision]
        if self.method == "transformed":
            self.warping = TransformedWarping(warping_module, weights)
            self.generator = TransformedGenerator(generator, weights)
        else:
            self.warping = DirectWarping(warping_module, weights)
            self.generator = DirectGenerator(generator, weights)

    @torch.no_grad()
    def prepare(self, feature_3d: Tensor, keypoints: Tensor) -> PreparedSource:
        """Return what depends on the source alone: (1, 32, 16, 64, 64) features and (1, 21, 3) keypoints.

        A few milliseconds, so that a source video can be prepared frame by frame.
        """
        return self.warping.dense_motion.prepare(feature_3d.float(), keypoints.float())

    @torch.no_grad()
    def generate(self, source: PreparedSource, keypoints: Tensor, check: Check | None = None) -> Tensor:
        """Return (B, 3, 512, 512) float32 pictures, RGB in 0..1, for (B, 21, 3) driving keypoints.

        All on the device of its arguments; nothing given is changed. How large B may be is a matter of memory.
        check: called between the steps of a frame, which takes seconds on a processor; may raise to cancel. What is
        compiled runs as a whole.
        """
        if keypoints.dim() != 3 or keypoints.shape[1:] != source.keypoints.shape[1:]:
            expected = ("B", *source.keypoints.shape[1:])
            raise ValueError(f"driving keypoints are {tuple(keypoints.shape)}, expected {expected}")
        check = check or go_on
        check()
        if self._compiled is not None:
            return self._compiled(source, keypoints.float(), go_on)
        return self._frames(source, keypoints.float(), check)

    def _frames(self, source: PreparedSource, keypoints: Tensor, check: Check) -> Tensor:
        if self.method == "direct":
            return self.generator(self.warping(source, keypoints, check), check)
        return torch.stack([self.generator(self.warping(source, frame, check), check) for frame in keypoints])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrameGenerator:
        def move_only(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move_only, recurse)


def images_as_bytes(images: Tensor) -> Tensor:
    """Return (B, H, W, 3) uint8 of (B, 3, H, W) pictures in 0..1, values cut down, not rounded, as the release does."""
    return images.clamp(0, 1).mul_(255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
