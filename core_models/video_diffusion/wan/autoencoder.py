"""Wan's causal video autoencoder: videos to latents and back, one latent frame at a time.

The network is diffusers' `AutoencoderKLWan`. Its convolutions look back in time only, and what they look back at is
kept between latent frames: coding frame by frame gives what coding the whole clip gives, in memory that does not grow
with the clip. Layouts: videos (B, 3, N, H, W) in -1..1, latents (B, C, F, h, w), N = 4 (F - 1) + 1 for the published
sizes. Latents are normalised by the mean and spread of each channel; what diffusion works on is always the mode of the
encoded distribution.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor, nn

from ...strict_loading import (
    PICKLE_SUFFIXES,
    UnreadableWeightsError,
    map_keys,
    read_metadata,
    read_weights,
    require_matching_keys,
    require_no_meta_tensors,
)
from ..block_checks import CheckCallback
from .autoencoder_keys import ORIGINAL_MARK, original_key_table

WAN_AUTOENCODER_ENTRY = "wan_autoencoder"
"""Entry of a file's metadata that holds the sizes; files without it have the published ones."""
COLOURS = 3
PUBLISHED_LATENTS_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
"""Mean of each channel of Wan 2.1's latents, before normalisation."""
PUBLISHED_LATENTS_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
"""Standard deviation of each channel of Wan 2.1's latents, before normalisation."""
_SAVED_UNDER = "model_state."
"""What precedes every key of files that were saved with their training."""
_OVERFLOW_ADVICE = {
    torch.float16: "choose bfloat16 or float32 as precision",
    torch.bfloat16: "choose float32 as precision, or sample again with lower guidance",
}
"""What to do about infinity or NaN, by what was computed in; in float32 it is not the precision."""

FrameCache = list[Any]
"""What a network keeps between latent frames: tensors, and marks of diffusers' own for places not yet filled."""


@dataclass(frozen=True)
class WanAutoencoderParameters:
    """Sizes of a Wan autoencoder, named as diffusers does; the defaults are Wan 2.1's.

    base_dim: channels at the pictures' size. decoder_base_dim: the decoder's; None is the encoder's. z_dim: channels of
    latents. dim_mult: how many times base_dim each level has, from the pictures' size down; every further level halves
    height and width. num_res_blocks: residual blocks of a level of the encoder; the decoder has one more.
    temporal_downsample: for each step between levels, whether it halves time too. is_residual: levels have shortcuts
    around them, as in Wan 2.2. patch_size: side of the squares of pixels that are folded into channels first.
    latents_mean, latents_std: of each channel before normalisation.
    Raises ValueError for a size below 1, lists whose lengths do not fit, or spreads not above 0.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    is_residual: bool = False
    patch_size: int = 1
    latents_mean: tuple[float, ...] = PUBLISHED_LATENTS_MEAN
    latents_std: tuple[float, ...] = PUBLISHED_LATENTS_STD

    def __post_init__(self) -> None:
        for name in ("dim_mult", "temporal_downsample", "latents_mean", "latents_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("base_dim", "z_dim", "num_res_blocks", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not self.dim_mult or min(self.dim_mult) < 1:
            raise ValueError(
                f"dim_mult is {self.dim_mult}, expected numbers of at least 1, one for each level"
            )
        if len(self.temporal_downsample) != len(self.dim_mult) - 1:
            raise ValueError(
                f"temporal_downsample is {self.temporal_downsample}, expected one choice for each of the "
                f"{len(self.dim_mult) - 1} steps between levels"
            )
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) != self.z_dim:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} numbers, expected {self.z_dim} (z_dim)"
                )
        if not all(0 < value < float("inf") for value in self.latents_std):
            raise ValueError(f"latents_std is {self.latents_std}, expected numbers above 0")

    @classmethod
    def unmeasured(cls, **sizes: Any) -> WanAutoencoderParameters:
        """Return sizes whose latents stay as they are (mean 0, spread 1): what a training starts from."""
        channels = sizes.get("z_dim", cls.z_dim)
        return cls(**sizes, latents_mean=(0.0,) * channels, latents_std=(1.0,) * channels)

    def without_statistics(self) -> WanAutoencoderParameters:
        """Return the same sizes whose latents stay as they are."""
        return self.with_statistics((0.0,) * self.z_dim, (1.0,) * self.z_dim)

    def with_statistics(self, mean: Iterable[float], std: Iterable[float]) -> WanAutoencoderParameters:
        """Return the same sizes with these statistics of their latents."""
        return replace(self, latents_mean=tuple(map(float, mean)), latents_std=tuple(map(float, std)))

    @property
    def pixels_per_latent(self) -> int:
        """How many times smaller latents are than pictures, in height and in width."""
        return self.patch_size * 2 ** (len(self.dim_mult) - 1)

    @property
    def frames_per_latent(self) -> int:
        """Video frames of every latent frame but the first, which holds one."""
        return 2 ** sum(self.temporal_downsample)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WanAutoencoderParameters:
        """Rebuild from `to_dict`; raises TypeError for fields that do not exist."""
        return cls(**values)


def new_wan_autoencoder(parameters: WanAutoencoderParameters) -> AutoencoderKLWan:
    """Return an autoencoder of these sizes with weights drawn from torch's global generator."""
    channels = COLOURS * parameters.patch_size**2
    return AutoencoderKLWan(
        base_dim=parameters.base_dim,
        decoder_base_dim=parameters.decoder_base_dim,
        z_dim=parameters.z_dim,
        dim_mult=list(parameters.dim_mult),
        num_res_blocks=parameters.num_res_blocks,
        temperal_downsample=list(parameters.temporal_downsample),
        latents_mean=list(parameters.latents_mean),
        latents_std=list(parameters.latents_std),
        is_residual=parameters.is_residual,
        in_channels=channels,
        out_channels=channels,
        patch_size=parameters.patch_size,
        scale_factor_temporal=parameters.frames_per_latent,
        scale_factor_spatial=parameters.pixels_per_latent,
    )


def wan_autoencoder_parameters(path: str | os.PathLike[str]) -> WanAutoencoderParameters:
    """Return the sizes that a file's metadata holds; the published ones for a file without them.

    Raises FileNotFoundError, and UnreadableWeightsError for a damaged file or sizes that cannot be read.
    """
    if Path(path).suffix.lower() in PICKLE_SUFFIXES:
        return WanAutoencoderParameters()
    text = read_metadata(path).get(WAN_AUTOENCODER_ENTRY)
    if text is None:
        return WanAutoencoderParameters()
    try:
        return WanAutoencoderParameters.from_dict(json.loads(text))
    except (AttributeError, TypeError, ValueError) as error:
        raise UnreadableWeightsError(f"{path}: its sizes ({text[:80]}) cannot be read: {error}") from error


def load_wan_autoencoder(
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float32,
    parameters: WanAutoencoderParameters | None = None,
) -> AutoencoderKLWan:
    """Return the autoencoder of a file, frozen, on the CPU, in evaluation mode.

    path: `Wan2.1_VAE.pth` or a safetensors file, under the original key names or diffusers', or one that our training
    exported. dtype: of the weights. parameters: sizes of a file whose metadata has none; None is the published ones.
    Raises FileNotFoundError, and ValueError for a file of another kind or any key that is missing, unexpected or
    misshapen (all of them are named).
    """
    sizes = parameters or wan_autoencoder_parameters(path)
    state = _diffusers_state(read_weights(path, dtype).tensors, sizes, str(path))
    with torch.device("meta"):
        autoencoder = new_wan_autoencoder(sizes)
    require_matching_keys(autoencoder.state_dict(), state, str(path))
    autoencoder.load_state_dict(state, assign=True)
    return require_no_meta_tensors(autoencoder).eval().requires_grad_(False)


def _diffusers_state(
    tensors: Mapping[str, Tensor], parameters: WanAutoencoderParameters, source: str
) -> dict[str, Tensor]:
    table = original_key_table(len(parameters.dim_mult), parameters.num_res_blocks)
    bare = map_keys(tensors, {f"{_SAVED_UNDER}*": "*"}, source)
    return bare if ORIGINAL_MARK not in bare else map_keys(bare, table, source)


def wan_autoencoder_metadata(parameters: WanAutoencoderParameters) -> dict[str, str]:
    """Return what a file's metadata holds so that `load_wan_autoencoder` reads it."""
    return {WAN_AUTOENCODER_ENTRY: json.dumps(parameters.to_dict())}


def exported_wan_autoencoder(
    autoencoder: AutoencoderKLWan, parameters: WanAutoencoderParameters, half: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file that `load_wan_autoencoder` reads.

    parameters: the sizes it was made with, and the statistics that its latents turned out to have. half: in float16.
    """
    dtype = torch.float16 if half else torch.float32
    tensors = {
        name: value.detach().to("cpu", dtype).contiguous() for name, value in autoencoder.state_dict().items()
    }
    return tensors, wan_autoencoder_metadata(parameters)


def encoded_distribution(
    autoencoder: AutoencoderKLWan, video: Tensor, check: CheckCallback | None = None
) -> tuple[Tensor, Tensor]:
    """Return mean and logarithm of the variance (B, C, F, h, w) of the encoded distribution, not normalised.

    video: (B, 3, N, H, W) in -1..1, in any floating point and on any device: the pixels of a latent frame at a time are
    moved to the autoencoder's, where the results are. Gradients flow. check: called before each latent frame; what it
    raises ends the encoding.
    Raises ValueError unless N is 1 more than a multiple of the frames of a latent, and H and W are multiples of its
    pixels.
    """
    _require_video(autoencoder, video)
    cache = fresh_cache(autoencoder.encoder)
    step, parts = autoencoder.config.scale_factor_temporal, []
    for first in range(1 - step, video.shape[2], step):
        if check is not None:
            check()
        pixels = video[:, :, max(first, 0) : first + step].to(autoencoder.device, autoencoder.dtype)
        folded = patchify(pixels.contiguous(), autoencoder.config.patch_size)
        parts.append(autoencoder.encoder(folded, feat_cache=cache, feat_idx=[0]))
    mean, log_variance = autoencoder.quant_conv(torch.cat(parts, dim=2)).chunk(2, dim=1)
    return mean, log_variance


def encode_video(autoencoder: AutoencoderKLWan, video: Tensor, check: CheckCallback | None = None) -> Tensor:
    """Return the normalised latents (B, C, F, h, w) of videos: the mode. Arguments as `encoded_distribution` takes."""
    return normalised_latents(autoencoder, encoded_distribution(autoencoder, video, check)[0])


@torch.no_grad()
def encoded_condition(
    autoencoder: AutoencoderKLWan, video: Tensor, check: CheckCallback | None = None
) -> Tensor:
    """Return the normalised latents (C, F, h, w) float32 of one video (3, N, H, W) in -1..1, without gradients.

    Arguments and errors are those of `encoded_distribution`.
    """
    return encode_video(autoencoder, video[None], check)[0].float()


def decode_video(
    autoencoder: AutoencoderKLWan, latents: Tensor, check: CheckCallback | None = None
) -> Tensor:
    """Return videos (B, 3, N, H, W) of normalised latents (B, C, F, h, w), not clamped; gradients flow.

    latents: in any floating point and on any device; videos are on the autoencoder's, in its dtype. check: called
    before each latent frame; what it raises ends the decoding.
    Raises ValueError for latents of another form.
    """
    require_latents(autoencoder, latents)
    cache, parts = fresh_cache(autoencoder.decoder), []
    for index in range(latents.shape[2]):
        if check is not None:
            check()
        parts.append(decoded_frame(autoencoder, latents[:, :, index : index + 1], cache, index == 0))
    return torch.cat(parts, dim=2)


def decoded_chunks(
    autoencoder: AutoencoderKLWan, latents: Tensor, check: CheckCallback | None = None
) -> Iterator[Tensor]:
    """Yield the video of normalised latents (C, F, h, w) as (3, n, H, W) float32 in -1..1, one latent frame each.

    The first chunk has one frame, the others those of a latent; joined they are what `decode_video` gives, bit for bit,
    clamped. Only one latent frame and what it looks back at are in memory. latents: in any floating point, on any
    device; chunks are on the autoencoder's. check: called before each latent frame; what it raises ends the decoding.
    Raises ValueError for latents of another form, and FloatingPointError when the decoder overflowed.
    """
    require_latents(autoencoder, latents[None])
    cache = fresh_cache(autoencoder.decoder)
    for index in range(latents.shape[1]):
        if check is not None:
            check()
        with torch.no_grad():  # ends before the caller goes on
            decoded = decoded_frame(autoencoder, latents[None, :, index : index + 1], cache, index == 0)[0]
        yield in_pixel_range(decoded)


def fresh_cache(network: nn.Module) -> FrameCache:
    """Return what an encoder or decoder keeps between latent frames, before the first: a place per convolution."""
    return [None] * sum(isinstance(module, nn.Conv3d) for module in network.modules())


def decoded_frame(autoencoder: AutoencoderKLWan, latents: Tensor, cache: FrameCache, first: bool) -> Tensor:
    """Return the frames (B, 3, n, H, W) of one normalised latent frame (B, C, 1, h, w), not clamped.

    cache: what the decoder looks back at, from `fresh_cache(autoencoder.decoder)`; it is brought up to date. first:
    whether the latent frame begins its clip, and so holds one frame.
    """
    moved = latents.to(autoencoder.device, autoencoder.dtype)
    mixed = autoencoder.post_quant_conv(raw_latents(autoencoder, moved))
    decoded = autoencoder.decoder(mixed, feat_cache=cache, feat_idx=[0], first_chunk=first)
    return unpatchify(decoded, autoencoder.config.patch_size)


def require_latents(autoencoder: AutoencoderKLWan, latents: Tensor) -> None:
    """Raise ValueError unless latents are (B, C, F, h, w) with the autoencoder's channels, and not empty."""
    channels = autoencoder.config.z_dim
    if latents.ndim != 5 or latents.shape[1] != channels or 0 in latents.shape:
        raise ValueError(
            f"latents are {tuple(latents.shape[1:])}, expected ({channels}, frames, height, width)"
        )


def in_pixel_range(decoded: Tensor, computed: torch.dtype | None = None) -> Tensor:
    """Return decoded pixels as float32, cut to -1..1. computed: what the decoder computed in; None is their dtype.

    Raises FloatingPointError for infinity or NaN.
    """
    if not torch.isfinite(decoded).all():
        dtype = decoded.dtype if computed is None else computed
        advice = _OVERFLOW_ADVICE.get(dtype, "sample again with lower guidance, or load the weights again")
        name = str(dtype).removeprefix("torch.")
        raise FloatingPointError(f"the decoder gave infinity or NaN in {name}: {advice}")
    return decoded.float().clamp(-1, 1)


def normalised_latents(autoencoder: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Return latents (B, C, F, h, w) as diffusion sees them: minus the channel's mean, over its spread."""
    mean, inverse = _statistics(autoencoder, latents)
    return (latents - mean) * inverse


def raw_latents(autoencoder: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Return normalised latents (B, C, F, h, w) as the decoder takes them; undoes `normalised_latents`."""
    mean, inverse = _statistics(autoencoder, latents)
    return latents / inverse + mean


def latent_statistics(latents: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over raw latents (B, C, F, h, w), summed in float64.

    For `WanAutoencoderParameters.with_statistics`. Raises ValueError without latents.
    """
    count, total, squares = 0, 0.0, 0.0
    for batch in latents:
        values = batch.detach().double().transpose(0, 1).flatten(1)
        count, total = count + values.shape[1], total + values.sum(1)
        squares = squares + values.square().sum(1)
    if not count:
        raise ValueError("there are no latents to take statistics of: give at least one")
    mean = total / count
    return mean.tolist(), (squares / count - mean.square()).clamp(min=0).sqrt().tolist()


def _statistics(autoencoder: AutoencoderKLWan, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse spread (1, C, 1, 1, 1); inverted before the dtype changes, as in the release."""
    mean = torch.tensor(autoencoder.config.latents_mean).view(1, -1, 1, 1, 1)
    inverse = 1 / torch.tensor(autoencoder.config.latents_std).view(1, -1, 1, 1, 1)
    return mean.to(like), inverse.to(like)


def _require_video(autoencoder: AutoencoderKLWan, video: Tensor) -> None:
    step, side = autoencoder.config.scale_factor_temporal, autoencoder.config.scale_factor_spatial
    if video.ndim != 5 or video.shape[1] != COLOURS:
        raise ValueError(f"video is {tuple(video.shape)}, expected (batch, {COLOURS}, frames, height, width)")
    frames, height, width = video.shape[2:]
    if frames % step != 1 % step:
        raise ValueError(f"video has {frames} frames, expected 1 more than a multiple of {step}")
    if not height or not width or height % side or width % side:
        raise ValueError(f"video is {width} x {height} pixels, expected multiples of {side}")
