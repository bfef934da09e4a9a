"""Training of the small video autoencoder that the small ACTalker works behind: made heads at 64 pixels.

Loss: absolute differences of colours, and of what frozen random convolutions see in them (edges of all directions),
with more weight where eyes and mouth are; and the usual slight pull of the latents towards a normal distribution.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from ..core_models.strict_loading import require_matching_keys
from ..core_models.video_diffusion.autoencoder import (
    VideoAutoencoderParameters,
    autoencoder_metadata,
    new_video_autoencoder,
)
from .actalker_data import ControlledClip
from .actalker_latents import measured_scaling_factor, pictures_of_frames
from .checkpoint_file import read_checkpoint_content, write_checkpoint_content
from .kdtalker_run import TrainingDivergedError
from .perceptual_features import RandomFeatures
from .stepwise_training import facts_entry, write_safetensors

logger = logging.getLogger(__name__)

CHECKPOINT_KIND = "actalker_autoencoder_training_1"
TRAINING_ENTRY = "actalker_autoencoder_training"
"""Entry of the exported file's metadata that tells how it was trained."""
SMALL_AUTOENCODER = VideoAutoencoderParameters(
    block_out_channels=(32, 32, 64), layers_per_block=1, scaling_factor=1.0, force_upcast=False, groups=1
)
"""Frames of 64 pixels to 4 channels of 16 x 16; 0.76 million weights. The factor is measured when it is exported."""
FIRST_LOG_VARIANCE, NOISE_SHARE = -5.0, 0.1
"""Of the latents' noise before training, and how much it hangs on the picture, over what is drawn."""
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class AutoencoderTrainingParameters:
    """How to train. steps: updates. clips, frames: of each step, so many clips and frames in a row of each.

    alone_share: of the steps, the first, in which as many frames are each of another clip and stand alone, so that
    steps see more people; what mixes frames learns in the others.
    learning_rate: AdamW's at its highest; it rises over `warmup` steps and falls to 0 along a cosine. colour_range: how
    far each colour channel is made brighter or darker at random. region_weight: added to 1 inside the boxes of mouth
    and eyes. feature_weight, divergence_weight: of the terms beside the colours'. precision: one of PRECISIONS.
    Raises ValueError for numbers out of range.
    """

    steps: int = 2000
    clips: int = 4
    frames: int = 3
    alone_share: float = 0.7
    learning_rate: float = 1e-3
    warmup: int = 50
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    colour_range: float = 0.15
    region_weight: float = 3.0
    feature_weight: float = 0.5
    divergence_weight: float = 1e-6
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "clips", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not (self.learning_rate > 0 and self.clip_norm > 0):
            raise ValueError("learning_rate and clip_norm must be above 0")
        if not 0 <= self.alone_share <= 1:
            raise ValueError(f"alone_share is {self.alone_share}, expected 0 to 1")
        low = min(self.region_weight, self.feature_weight, self.divergence_weight, self.colour_range)
        if not (low >= 0 and self.warmup >= 0 and self.weight_decay >= 0):
            raise ValueError("weights, colour_range and warmup must not be below 0")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision is {self.precision!r}, expected one of {', '.join(map(repr, PRECISIONS))}"
            )
        # PyTorch 2.13's gradient of a convolution over 2 frames is wrong in bfloat16 on a processor.
        if self.precision == "bfloat16" and self.frames == 2:
            raise ValueError("frames is 2, which bfloat16 cannot be trusted with: give 1 or 3, or float32")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderTrainingParameters:
        """Rebuild from `to_dict`; raises TypeError for fields that do not exist."""
        return cls(**values)


class AutoencoderBatch(NamedTuple):
    """pictures: (B, 3, 64, 64) in -1..1, `frames` in a row of each clip. weights: (B, 1, 64, 64), how much each pixel
    counts, 1 on average."""

    pictures: Tensor
    weights: Tensor
    frames: int


class AutoencoderLosses(NamedTuple):
    """loss: what is minimised; the rest are its terms, not weighed. divergence: nats of a picture's latents."""

    loss: Tensor
    colours: Tensor
    features: Tensor
    divergence: Tensor


def drawn_batch(
    clips: Sequence[ControlledClip], recipe: AutoencoderTrainingParameters, step: int
) -> AutoencoderBatch:
    """Return a step's frames, a function of the recipe's seed and the step alone; half are mirrored.

    Raises ValueError when the clips are shorter than the recipe's frames.
    """
    rng = np.random.default_rng([recipe.seed, step])
    frames = 1 if step < recipe.alone_share * recipe.steps else recipe.frames
    pictures, weights = [], []
    for index in rng.integers(len(clips), size=recipe.clips * recipe.frames // frames):
        clip = clips[int(index)]
        if len(clip) < frames:
            raise ValueError(f"a clip has {len(clip)} frames, but {frames} in a row are asked for")
        first = int(rng.integers(len(clip) - frames + 1))
        shown = pictures_of_frames(clip.frames[first : first + frames])
        gain = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 1, 1)).astype(np.float32)) * recipe.colour_range
        shown = ((shown + 1) * (1 + gain) - 1).clamp(-1, 1)
        counted = region_weights(clip, recipe.region_weight).expand(frames, -1, -1, -1)
        mirrored = rng.random() < 0.5
        pictures.append(shown.flip(3) if mirrored else shown)
        weights.append(counted.flip(3) if mirrored else counted)
    return AutoencoderBatch(torch.cat(pictures), torch.cat(weights), frames)


def region_weights(clip: ControlledClip, added: float) -> Tensor:
    """Return (1, 1, 64, 64): 1 + `added` inside the boxes of mouth and eyes, 1 elsewhere, over their mean."""
    weights = torch.ones(1, 1, *clip.frames.shape[1:3])
    for left, top, right, bottom in (clip.mouth_box.tolist(), clip.eye_box.tolist()):
        weights[..., top:bottom, left:right] = 1 + added
    return weights / weights.mean()


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
    made = made.float()
    colours = _weighed(made - batch.pictures, batch.weights)
    seen = features((made + 1) / 2)[1:]
    with torch.no_grad():
        wanted = features((batch.pictures + 1) / 2)[1:]
    terms = [_weighed(one - other, batch.weights) for one, other in zip(seen, wanted, strict=True)]
    divergence = posterior.kl().float().mean()
    loss = colours + recipe.feature_weight * sum(terms) + recipe.divergence_weight * divergence
    return AutoencoderLosses(loss, colours, torch.stack(terms).sum(), divergence)


def _weighed(difference: Tensor, weights: Tensor) -> Tensor:
    return (difference.abs() * F.adaptive_avg_pool2d(weights, difference.shape[-2:])).mean()


def learning_rate_at(step: int, recipe: AutoencoderTrainingParameters) -> float:
    """Return the learning rate of an update, counted from 0."""
    rise = min(1.0, (step + 1) / (recipe.warmup + 1))
    return recipe.learning_rate * rise * (1 + math.cos(math.pi * step / recipe.steps)) / 2


def clips_digest(clips: Sequence[ControlledClip]) -> str:
    """Return a SHA-256 of the clips' frames, so that a run knows its own."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(np.ascontiguousarray(clip.frames).tobytes())
    return digest.hexdigest()


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


class AutoencoderTrainer:
    """An autoencoder, its optimiser and the number of steps done."""

    def __init__(
        self,
        parameters: VideoAutoencoderParameters,
        recipe: AutoencoderTrainingParameters,
        clips: Sequence[ControlledClip],
        device: torch.device | str = "cpu",
    ) -> None:
        """Draw the weights from the recipe's seed, on the processor whatever the device is.

        Raises ValueError when there is no clip.
        """
        if not clips:
            raise ValueError("there are no clips to train on")
        self.parameters_used, self.recipe, self.clips = parameters, recipe, clips
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.autoencoder = begun(new_video_autoencoder(parameters))
        self.autoencoder.to(self.device).train()
        self.features = RandomFeatures().to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.autoencoder.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.step = 0

    def train_step(self) -> AutoencoderLosses:
        """Update the weights once. Raises TrainingDivergedError, before anything is changed."""
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(self.step, recipe)
        batch = drawn_batch(self.clips, recipe, self.step)
        batch = batch._replace(pictures=batch.pictures.to(self.device), weights=batch.weights.to(self.device))
        generator = torch.Generator(self.device).manual_seed(recipe.seed * 1_000_003 + self.step)
        losses = training_losses(self.autoencoder, self.features, batch, recipe, generator)
        self.optimiser.zero_grad(set_to_none=True)
        losses.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.autoencoder.parameters(), recipe.clip_norm)
        if not (math.isfinite(losses.loss.item()) and math.isfinite(norm.item())):
            raise TrainingDivergedError(
                f"training diverged in step {self.step}: loss {losses.loss.item()}, gradient norm {norm.item()}; "
                "begin a new run with a lower learning rate"
            )
        self.optimiser.step()
        self.step += 1
        return AutoencoderLosses(*(value.detach() for value in losses))

    def write_checkpoint(self, path: Path) -> None:
        """Write all that a continuation needs, whole or not at all."""
        content = {
            "kind": CHECKPOINT_KIND,
            "step": self.step,
            "parameters": json.dumps(self.parameters_used.to_dict()),
            "recipe": self.recipe.to_dict(),
            "weights": self.autoencoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "data": clips_digest(self.clips),
        }
        write_checkpoint_content(path, content)

    @classmethod
    def from_checkpoint(
        cls, path: Path, clips: Sequence[ControlledClip], device: torch.device | str = "cpu"
    ) -> AutoencoderTrainer:
        """Return the trainer that goes on where a checkpoint was taken; other clips are allowed, with a warning.

        Raises FileNotFoundError, and ValueError for a file that is damaged or something else.
        """
        content = read_checkpoint_content(path, CHECKPOINT_KIND, "the small video autoencoder")
        try:
            parameters = VideoAutoencoderParameters.from_dict(json.loads(content["parameters"]))
            recipe = AutoencoderTrainingParameters.from_dict(content["recipe"])
            step, weights, optimiser = content["step"], content["weights"], content["optimiser"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} was written by another version of this package ({error})") from error
        if content.get("data") != clips_digest(clips):
            logger.warning("the clips are not those of the checkpoint: it is no longer the same run")
        trainer = cls(parameters, recipe, clips, device)
        require_matching_keys(trainer.autoencoder.state_dict(), weights, "the checkpoint")
        trainer.autoencoder.load_state_dict(weights)
        trainer.optimiser.load_state_dict(optimiser)
        trainer.step = step
        return trainer


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
