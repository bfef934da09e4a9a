"""Training of the small video autoencoder that the small ACTalker works behind: made heads at 64 pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import nn

from ..core_models.video_diffusion.autoencoder import (
    VideoAutoencoderParameters,
    autoencoder_metadata,
    new_video_autoencoder,
)
from .actalker_latents import measured_scaling_factor
from .autoencoder_training import (
    AutoencoderBatch,
    AutoencoderLosses,
    AutoencoderTrainingParameters,
    VideoAutoencoderTrainer,
    reconstruction_losses,
)
from .perceptual_features import RandomFeatures
from .stepwise_training import facts_entry, write_safetensors

CHECKPOINT_KIND = "actalker_autoencoder_training_1"
TRAINING_ENTRY = "actalker_autoencoder_training"
"""Entry of the exported file's metadata that tells how it was trained."""
SMALL_AUTOENCODER = VideoAutoencoderParameters(
    block_out_channels=(32, 32, 64), layers_per_block=1, scaling_factor=1.0, force_upcast=False, groups=1
)
"""Frames of 64 pixels to 4 channels of 16 x 16; 0.76 million weights. The factor is measured when it is exported."""
FIRST_LOG_VARIANCE, NOISE_SHARE = -5.0, 0.1
"""Of the latents' noise before training, and how much it hangs on the picture, over what is drawn."""


def training_losses(
    autoencoder: AutoencoderKLTemporalDecoder,
    features: RandomFeatures,
    batch: AutoencoderBatch,
    recipe: AutoencoderTrainingParameters,
    generator: torch.Generator,
) -> AutoencoderLosses:
    """Return the losses of a batch. generator: of the noise by which latents are drawn."""
    with torch.autocast(batch.pictures.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
        posterior = autoencoder.encode(batch.pictures).latent_dist
        latents = posterior.sample(generator=generator)
        made = autoencoder.decode(latents, num_frames=batch.frames).sample
    return reconstruction_losses(made, batch, posterior.kl().float().mean(), features, recipe)


@torch.no_grad()
def begun(autoencoder: AutoencoderKLTemporalDecoder) -> AutoencoderKLTemporalDecoder:
    """Return the autoencoder, its weights changed so that a short training gets far.

    Latents begin with little noise, and the decoder with frames that know nothing of each other.
    """
    convolution = autoencoder.quant_conv
    half = convolution.out_channels // 2
    convolution.weight[half:] *= NOISE_SHARE
    convolution.bias[half:] = FIRST_LOG_VARIANCE
    for module in autoencoder.decoder.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 1, 1):
            module.weight[:, :, [0, 2]] = 0
    last = autoencoder.decoder.time_conv_out
    last.weight[:, :, 1, 0, 0] = torch.eye(last.out_channels)
    last.bias.zero_()
    return autoencoder


class AutoencoderTrainer(VideoAutoencoderTrainer):
    """Trains the autoencoder whose frames are encoded each by itself."""

    kind = CHECKPOINT_KIND
    parameters_type = VideoAutoencoderParameters

    def begun_autoencoder(self) -> AutoencoderKLTemporalDecoder:
        """As the base says."""
        return begun(new_video_autoencoder(self.parameters_used))

    def losses(self, batch: AutoencoderBatch, generator: torch.Generator) -> AutoencoderLosses:
        """As the base says."""
        return training_losses(self.autoencoder, self.features, batch, self.recipe, generator)


def export_autoencoder(trainer: AutoencoderTrainer, target: Path, half: bool = False) -> None:
    """Write the autoencoder as the safetensors file that `load_video_autoencoder` reads, whole or not at all.

    The scaling factor is measured on the trainer's clips. half: in float16. Raises ValueError for a name that does not
    end in .safetensors.
    """
    factor = measured_scaling_factor(trainer.autoencoder, trainer.clips)
    metadata = autoencoder_metadata(replace(trainer.parameters_used, scaling_factor=factor))
    facts = {"step": trainer.step, **trainer.recipe.to_dict()}
    tensors = {
        name: (value.half() if half else value).detach().cpu().contiguous()
        for name, value in trainer.autoencoder.state_dict().items()
    }
    write_safetensors(target, tensors, {**metadata, TRAINING_ENTRY: facts_entry(facts)})
