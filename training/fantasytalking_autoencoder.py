"""Training of the small Wan autoencoder that the small FantasyTalking works behind: made heads at 64 pixels.

Its losses are those of the other small video autoencoder. Mean and spread of its latents are measured at its export.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanResample
from torch import Tensor
from torch.nn import functional as F

from ..core_models.strict_loading import require_matching_keys
from ..core_models.video_diffusion.wan.autoencoder import (
    WanAutoencoderParameters,
    decode_video,
    encoded_distribution,
    exported_wan_autoencoder,
    latent_statistics,
    load_wan_autoencoder,
    new_wan_autoencoder,
    wan_autoencoder_parameters,
)
from ..core_models.video_diffusion.wan.frame_rules import FRAMES_PER_LATENT
from .actalker_latents import pictures_of_frames
from .actalker_readers import FrameReader, fitted_frame_reader
from .autoencoder_training import (
    AutoencoderBatch,
    AutoencoderLosses,
    AutoencoderTrainingParameters,
    VideoAutoencoderTrainer,
    reconstruction_losses,
)
from .fantasytalking_data import TalkingClip
from .fantasytalking_readers import MOUTH
from .stepwise_training import facts_entry, write_safetensors

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; only type checkers read it

CHECKPOINT_KIND = "fantasytalking_autoencoder_training_2"
TRAINING_ENTRY = "fantasytalking_autoencoder_training"
"""Entry of the exported file's metadata that tells how it was trained."""
SMALL_WAN_AUTOENCODER = WanAutoencoderParameters.unmeasured(
    base_dim=32,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    patch_size=2,
)
"""Frames of 64 pixels to 16 channels of 8 x 8, four frames to one; 2.6 million weights."""
FIRST_LOG_VARIANCE, NOISE_SHARE = -5.0, 0.1
"""Of the latents' noise before training, and how much it hangs on the picture, over what is drawn."""
LIPS_READER_STEPS = 1500
"""Updates of what sees how far the lips are open."""
SPATIAL_KERNEL = (3, 3, 3)
"""Of the convolutions that are trained on one frame at a time."""


@dataclass(frozen=True)
class WanAutoencoderTrainingParameters(AutoencoderTrainingParameters):
    """How to train: fields and errors of `AutoencoderTrainingParameters`, other defaults, frames of 4 k + 1.

    lips_weight: of how far the lips are open in what is given back, as a small network sees it that is fitted to the
    clips before training begins. By colours alone, a latent holds the mean over its four frames of lips this small.
    decoder_alone: the encoder stays as it is, so that what was trained on its latents goes on with the new decoder.
    """

    steps: int = 5000
    clips: int = 2
    frames: int = 9
    alone_share: float = 0.4
    learning_rate: float = 1.2e-3
    warmup: int = 100
    region_weight: float = 4.0
    lips_weight: float = 0.0
    decoder_alone: bool = False
    precision: str = "bfloat16"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lips_weight >= 0:
            raise ValueError(f"lips_weight is {self.lips_weight}, expected at least 0")
        if self.frames % FRAMES_PER_LATENT != 1:
            raise ValueError(
                f"frames is {self.frames}, expected 1 more than a multiple of {FRAMES_PER_LATENT}, as 5 or 9"
            )


@torch.no_grad()
def begun(autoencoder: AutoencoderKLWan) -> AutoencoderKLWan:
    """Return the autoencoder as it is trained, its weights changed so that a short training gets far.

    Its convolutions over space see one frame at a time: what mixes frames are the layers that halve and double time,
    so that no training on short clips can make long ones drift. Latents begin with little noise and as the mean of
    their frames, which are decoded alike. `in_full` gives the weights of an ordinary one.
    """
    convolution = autoencoder.quant_conv
    half = convolution.out_channels // 2
    convolution.weight[half:] *= NOISE_SHARE
    convolution.bias[half:] = FIRST_LOG_VARIANCE
    for module in autoencoder.modules():
        for name, child in module.named_children():
            if isinstance(child, WanCausalConv3d) and child.kernel_size == SPATIAL_KERNEL:
                setattr(module, name, _of_one_frame(child))
    for module in autoencoder.modules():
        if isinstance(module, WanResample) and module.mode in ("downsample3d", "upsample3d"):
            _begin_in_time(module)
    return autoencoder


def _of_one_frame(convolution: WanCausalConv3d) -> WanCausalConv3d:
    """Return the convolution without the frames before, its weights as large as is usual for so many inputs."""
    inputs, outputs = convolution.in_channels, convolution.out_channels
    return WanCausalConv3d(inputs, outputs, (1, *SPATIAL_KERNEL[1:]), padding=(0, 1, 1))


def _begin_in_time(module: WanResample) -> None:
    """Make a layer that halves time take the mean of two frames, one that doubles it give each frame twice."""
    weight, identity = module.time_conv.weight, torch.eye(module.dim)
    module.time_conv.bias.zero_()
    weight.zero_()
    if module.mode == "downsample3d":
        weight[:, :, 1:, 0, 0] = identity[:, :, None] / 2
    else:
        weight[:, :, -1, 0, 0] = identity.repeat(2, 1)


@torch.no_grad()
def in_full(trained: AutoencoderKLWan, parameters: WanAutoencoderParameters) -> AutoencoderKLWan:
    """Return an ordinary autoencoder that does what a trained one does: weights of the frames before are 0."""
    with torch.random.fork_rng(devices=[]):
        full = new_wan_autoencoder(parameters)
    wanted = full.state_dict()
    state = {}
    for name, value in trained.state_dict().items():
        state[name] = value.to("cpu")
        if value.shape != wanted[name].shape:
            state[name] = torch.zeros_like(wanted[name])
            state[name][:, :, -1:] = value
    full.load_state_dict(state)
    return full.train(trained.training)


def as_trained(full: Mapping[str, Tensor], begun: AutoencoderKLWan, source: str) -> dict[str, Tensor]:
    """Return an ordinary autoencoder's weights as one in training has them; undoes `in_full`.

    Raises ValueError for weights of the frames before that are not 0, and for keys and shapes of another autoencoder.
    """
    wanted, state = begun.state_dict(), {}
    for name, value in full.items():
        like = wanted.get(name)
        state[name] = value.clone()
        if like is not None and like.ndim == value.ndim == 5 and like.shape[2] < value.shape[2]:
            before, state[name] = value[:, :, : -like.shape[2]], value[:, :, -like.shape[2] :].clone()
            if before.count_nonzero():
                raise ValueError(
                    f"{source} cannot be trained on here: its {name} looks at frames before, which this training's "
                    "autoencoders do not: give one that `talking-portrait train fantasytalking autoencoder` wrote"
                )
    require_matching_keys(wanted, state, source)
    return state


class WanAutoencoderTrainer(VideoAutoencoderTrainer):
    """Trains an autoencoder of Wan's kind."""

    kind = CHECKPOINT_KIND
    parameters_type = WanAutoencoderParameters
    recipe_type = WanAutoencoderTrainingParameters

    def __init__(
        self,
        parameters: WanAutoencoderParameters,
        recipe: WanAutoencoderTrainingParameters,
        clips: Sequence[TalkingClip],
        device: torch.device | str = "cpu",
    ) -> None:
        """As the base says; what sees the lips is fitted on the processor, from the recipe's seed."""
        super().__init__(parameters, recipe, clips, device)
        self.lips: FrameReader | None = None
        if recipe.lips_weight > 0:
            reader = fitted_frame_reader(clips, steps=LIPS_READER_STEPS, seed=recipe.seed)
            self.lips = reader.requires_grad_(False).to(self.device)

    @classmethod
    def begun_with(
        cls,
        path: Path,
        recipe: WanAutoencoderTrainingParameters,
        clips: Sequence[TalkingClip],
        device: torch.device | str = "cpu",
    ) -> Self:
        """Return a trainer that begins with the weights and sizes of an exported file.

        Raises what `load_wan_autoencoder` raises, and ValueError for one that was not trained here.
        """
        trainer = cls(wan_autoencoder_parameters(path), recipe, clips, device)
        weights = as_trained(load_wan_autoencoder(path).state_dict(), trainer.autoencoder, str(path))
        trainer.autoencoder.load_state_dict(weights)
        return trainer

    def begun_autoencoder(self) -> AutoencoderKLWan:
        """As the base says. It works on latents that are not normalised, whatever the statistics of its sizes."""
        autoencoder = begun(new_wan_autoencoder(self.parameters_used.without_statistics()))
        if self.recipe.decoder_alone:
            autoencoder.encoder.requires_grad_(False)
            autoencoder.quant_conv.requires_grad_(False)
        return autoencoder

    def losses(self, batch: AutoencoderBatch, generator: torch.Generator) -> AutoencoderLosses:
        """As the base says."""
        return training_losses(self.autoencoder, batch, self, generator)


def training_losses(
    autoencoder: AutoencoderKLWan,
    batch: AutoencoderBatch,
    trainer: WanAutoencoderTrainer,
    generator: torch.Generator,
) -> AutoencoderLosses:
    """Return the losses of a batch. trainer: whose recipe and networks count. generator: of the latents' noise."""
    recipe = trainer.recipe
    video = batch.pictures.unflatten(0, (-1, batch.frames)).transpose(1, 2)
    with torch.autocast(video.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        mean, log_variance = (part.float() for part in encoded_distribution(autoencoder, video))
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        made = decode_video(autoencoder, mean + (log_variance / 2).exp() * noise)
    pictures = made.transpose(1, 2).flatten(0, 1)
    divergence = divergence_from_normal(mean, log_variance)
    losses = reconstruction_losses(pictures, batch, divergence, trainer.features, recipe)
    if trainer.lips is None:
        return losses
    lips = lips_loss(trainer.lips, pictures.float(), batch.pictures)
    return losses._replace(loss=losses.loss + recipe.lips_weight * lips)


def lips_loss(reader: FrameReader, made: Tensor, wanted: Tensor) -> Tensor:
    """Return how far lips are open otherwise in pictures (B, 3, 64, 64) than they should be, as a reader sees it.

    made, wanted: in -1..1; what lies beyond is cut off. Smooth absolute differences in units of the openings' spread.
    """
    seen = reader((made.clamp(-1, 1) + 1) / 2)[:, MOUTH]
    with torch.no_grad():
        true = reader((wanted + 1) / 2)[:, MOUTH]
    return F.smooth_l1_loss(seen / reader.deviation[MOUTH], true / reader.deviation[MOUTH])


def divergence_from_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean nats of clips' latents (B, ...) over those of a normal distribution."""
    nats = (mean.square() + log_variance.exp() - 1 - log_variance) / 2
    return nats.flatten(1).sum(dim=1).mean()


def video_of_frames(frames) -> Tensor:
    """Return (1, 3, N, H, W) float32 in -1..1 of frames (N, H, W, 3) uint8."""
    return pictures_of_frames(frames).transpose(0, 1)[None]


@torch.no_grad()
def raw_latents_of(autoencoder: AutoencoderKLWan, clips: Sequence[TalkingClip]) -> Iterator[Tensor]:
    """Yield (1, C, F, h, w) of each clip: the mode, not normalised."""
    for clip in clips:
        yield encoded_distribution(autoencoder, video_of_frames(clip.frames))[0].float()


def export_wan_autoencoder(trainer: WanAutoencoderTrainer, target: Path, half: bool = False) -> None:
    """Write the autoencoder as the safetensors file that `load_wan_autoencoder` reads, whole or not at all.

    Mean and spread of its latents' channels are measured on the trainer's clips; where the decoder was trained alone,
    they stay as they were. half: in float16. Raises ValueError for a name that does not end in .safetensors.
    """
    measured = trainer.parameters_used
    if not trainer.recipe.decoder_alone:
        measured = measured.with_statistics(
            *latent_statistics(raw_latents_of(trainer.autoencoder, trainer.clips))
        )
    full = in_full(trainer.autoencoder, trainer.parameters_used)
    tensors, metadata = exported_wan_autoencoder(full, measured, half)
    facts = {"step": trainer.step, **trainer.recipe.to_dict()}
    write_safetensors(target, tensors, {**metadata, TRAINING_ENTRY: facts_entry(facts)})
