"""What trainings of small video autoencoders share: made heads in batches, losses, and the trainer's steps and files.

Loss: absolute differences of colours, and of what frozen random convolutions see in them (edges of all directions),
with more weight where eyes and mouth are; and the usual slight pull of the latents towards a normal distribution.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core_models.strict_loading import require_matching_keys
from .actalker_latents import pictures_of_frames
from .checkpoint_file import read_checkpoint_content, write_checkpoint_content
from .kdtalker_run import TrainingDivergedError
from .perceptual_features import RandomFeatures

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; only type checkers read it

logger = logging.getLogger(__name__)

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


class PicturedClip(Protocol):
    """frames: (N, H, W, 3) uint8. mouth_box, eye_box: left, top, right, bottom; (4,) of all frames, (N, 4) of each."""

    frames: np.ndarray
    mouth_box: np.ndarray
    eye_box: np.ndarray

    def __len__(self) -> int:
        """Frames."""


def drawn_batch(
    clips: Sequence[PicturedClip], recipe: AutoencoderTrainingParameters, step: int
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
        counted = region_weights(clip, recipe.region_weight)
        counted = counted.expand(len(clip), -1, -1, -1)[first : first + frames]
        mirrored = rng.random() < 0.5
        pictures.append(shown.flip(3) if mirrored else shown)
        weights.append(counted.flip(3) if mirrored else counted)
    return AutoencoderBatch(torch.cat(pictures), torch.cat(weights), frames)


def region_weights(clip: PicturedClip, added: float) -> Tensor:
    """Return (1 or N, 1, H, W): 1 + `added` inside the boxes of mouth and eyes, 1 elsewhere, over their mean.

    One for all frames where the boxes are of all frames.
    """
    boxes = [np.reshape(box, (-1, 4)).tolist() for box in (clip.mouth_box, clip.eye_box)]
    weights = torch.ones(len(boxes[0]), 1, *clip.frames.shape[1:3])
    for rows in boxes:
        for frame, (left, top, right, bottom) in enumerate(rows):
            weights[frame, :, top:bottom, left:right] = 1 + added
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)


def reconstruction_losses(
    made: Tensor,
    batch: AutoencoderBatch,
    divergence: Tensor,
    features: RandomFeatures,
    recipe: AutoencoderTrainingParameters,
) -> AutoencoderLosses:
    """Return the losses of pictures (B, 3, H, W) that were made of a batch's. divergence: nats of its latents."""
    made = made.float()
    colours = weighed(made - batch.pictures, batch.weights)
    seen = features((made + 1) / 2)[1:]
    with torch.no_grad():
        wanted = features((batch.pictures + 1) / 2)[1:]
    terms = [weighed(one - other, batch.weights) for one, other in zip(seen, wanted, strict=True)]
    loss = colours + recipe.feature_weight * sum(terms) + recipe.divergence_weight * divergence
    return AutoencoderLosses(loss, colours, torch.stack(terms).sum(), divergence)


def weighed(difference: Tensor, weights: Tensor) -> Tensor:
    """Return the mean size of differences (B, C, h, w), weighed by (B, 1, H, W) brought to their size."""
    return (difference.abs() * F.adaptive_avg_pool2d(weights, difference.shape[-2:])).mean()


def learning_rate_at(step: int, recipe: AutoencoderTrainingParameters) -> float:
    """Return the learning rate of an update, counted from 0."""
    rise = min(1.0, (step + 1) / (recipe.warmup + 1))
    return recipe.learning_rate * rise * (1 + math.cos(math.pi * step / recipe.steps)) / 2


def clips_digest(clips: Sequence[PicturedClip]) -> str:
    """Return a SHA-256 of the clips' frames, so that a run knows its own."""
    digest = hashlib.sha256()
    for clip in clips:
        digest.update(np.ascontiguousarray(clip.frames).tobytes())
    return digest.hexdigest()


class VideoAutoencoderTrainer(ABC):
    """An autoencoder, its optimiser and the number of steps done.

    kind: of its checkpoints. parameters_type, recipe_type: of sizes and recipe; both have to_dict and from_dict.
    """

    kind: ClassVar[str]
    parameters_type: ClassVar[type]
    recipe_type: ClassVar[type[AutoencoderTrainingParameters]] = AutoencoderTrainingParameters

    @abstractmethod
    def begun_autoencoder(self) -> nn.Module:
        """Return an autoencoder before training, its weights drawn from torch's global generator."""

    @abstractmethod
    def losses(self, batch: AutoencoderBatch, generator: torch.Generator) -> AutoencoderLosses:
        """Return the losses of a batch. generator: of the noise by which latents are drawn."""

    def __init__(
        self,
        parameters: Any,
        recipe: AutoencoderTrainingParameters,
        clips: Sequence[PicturedClip],
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
            self.autoencoder = self.begun_autoencoder()
        self.autoencoder.to(self.device).train()
        self.features = RandomFeatures().to(self.device)
        learning = [value for value in self.autoencoder.parameters() if value.requires_grad]
        self.optimiser = torch.optim.AdamW(
            learning, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
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
        losses = self.losses(batch, generator)
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
            "kind": self.kind,
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
        cls, path: Path, clips: Sequence[PicturedClip], device: torch.device | str = "cpu"
    ) -> Self:
        """Return the trainer that goes on where a checkpoint was taken; other clips are allowed, with a warning.

        Raises FileNotFoundError, and ValueError for a file that is damaged or something else.
        """
        content = read_checkpoint_content(path, cls.kind, "the small video autoencoder")
        try:
            parameters = cls.parameters_type.from_dict(json.loads(content["parameters"]))
            recipe = cls.recipe_type.from_dict(content["recipe"])
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
