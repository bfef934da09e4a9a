"""A clip of FantasyTalking on a LATENT wire: what it says of itself beside core's samples, and its frames."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core_models.wan_types import WAN, FantasyTalkingModels, WanModels
from .fantasytalking_memory import AUTOMATIC, planned_tiles, require_room_for_frames
from .fantasytalking_models import wan_autoencoder
from .host import host

if TYPE_CHECKING:
    from torch import Tensor

    from ..core_models.types import ProgressCallback
    from ..core_models.video_diffusion.wan.colour import ColourStatistics
    from ..core_models.video_diffusion.wan.tiled_decoding import TileSizes

logger = logging.getLogger(__name__)

FRAME_COUNT, LATENT_COUNT = "frame_count", "latent_frame_count"
"""What our LATENT holds beside core's samples: frames of the clip, and of the latents that they were counted of. Nodes
that join or cut latents hand both on as they were, which shows in the second."""
REFERENCE_COLOUR, AUTOENCODER, WINDOW_RANGES = "reference_colour", "autoencoder", "window_ranges"
"""And the colours of the picture it begins with, what decodes it, and which frames each window made."""
PUBLISHED_AUTOENCODER = "Wan 2.1's"


@dataclass(frozen=True)
class SampledClip:
    """A clip as the graph has it.

    latents: (1, C, F, h, w) float32 on the CPU, as core's VAE Decode takes them. frame_count: how many of the video
    frames they hold are the clip's, from the first. fps: of these. colour: of the picture it begins with. autoencoder:
    what decodes it, of `autoencoder_name`. windows: (first, end) of the frames that each window it was sampled in made.
    """

    latents: Tensor
    frame_count: int
    fps: float
    colour: ColourStatistics
    autoencoder: str
    windows: tuple[tuple[int, int], ...] = ()

    def as_latent(self) -> dict[str, Any]:
        """Return what travels on a LATENT wire; core's nodes look at the samples alone."""
        return {
            "samples": self.latents,
            FRAME_COUNT: self.frame_count,
            LATENT_COUNT: self.latents.shape[2],
            REFERENCE_COLOUR: self.colour,
            AUTOENCODER: self.autoencoder,
            WINDOW_RANGES: self.windows,
        }


def autoencoder_name(wan: WanModels) -> str:
    """Return what tells the autoencoders apart whose latents look alike; all files of the published one are one."""
    return PUBLISHED_AUTOENCODER if wan.kind == WAN else Path(wan.autoencoder.path).name


def decoded_clip(
    models: FantasyTalkingModels,
    latent: Mapping[str, Any],
    colour_keeping: float = 0.0,
    tiling: str = AUTOMATIC,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Return frames (N, H, W, 3) float32 in 0..1 of a LATENT, on the CPU.

    latent: of FantasyTalking Sampler; of others, and where latents were joined or cut since, all frames are kept; of
    others the first one's colours. colour_keeping: 0..1, how much of the colours' drift is taken away. tiling: one of
    TILINGS.
    Raises ValueError for latents of another kind or another model, frames that main memory cannot hold, or another
    tiling; FloatingPointError when half precision overflowed.
    """
    from ..core_models.video_diffusion.wan.clip_frames import decoded_frames
    from ..core_models.video_diffusion.wan.frame_rules import video_frames

    latents, kept, cells = _own_latents(models, latent)
    height, width = (side * cells for side in latents.shape[2:])
    require_room_for_frames(video_frames(latents.shape[1]) if kept is None else kept, height, width)
    tiles = _tiles(models, latents, tiling)
    # Of latents that were joined or cut since, the windows are not known.
    windows = None if kept is None else latent.get(WINDOW_RANGES) or None
    reference, check = latent.get(REFERENCE_COLOUR), host().check_cancelled
    with wan_autoencoder(models.wan) as autoencoder:
        given = (autoencoder, latents, kept, colour_keeping, reference, tiles)
        return decoded_frames(*given, progress, check, windows)


def decoded_clip_parts(
    models: FantasyTalkingModels,
    latent: Mapping[str, Any],
    colour_keeping: float = 0.0,
    tiling: str = AUTOMATIC,
    progress: ProgressCallback | None = None,
) -> Iterator[Tensor]:
    """Yield what `decoded_clip` returns in parts (n, H, W, 3), one after the other, of which one is in memory.

    The autoencoder is held until the last part has come, or the iterator is closed. Raises as `decoded_clip`, except
    for frames that main memory cannot hold.
    """
    from ..core_models.video_diffusion.wan.clip_frames import decoded_parts

    latents, kept, _ = _own_latents(models, latent)
    tiles = _tiles(models, latents, tiling)
    reference, check = latent.get(REFERENCE_COLOUR), host().check_cancelled
    with wan_autoencoder(models.wan) as autoencoder:
        given = (autoencoder, latents, kept, colour_keeping, reference, tiles)
        yield from decoded_parts(*given, progress, check)


def _own_latents(models: FantasyTalkingModels, latent: Mapping[str, Any]) -> tuple[Tensor, int | None, int]:
    """Return normalised latents (C, F, h, w), how many of their frames are the clip's (None all), and pixels per cell.

    Raises ValueError for latents of another kind or another model.
    """
    from ..core_models.video_diffusion.wan.autoencoder import wan_autoencoder_parameters
    from ..core_models.video_diffusion.wan.core_latents import normalised_core_latents

    _require_own(models.wan, latent)
    sizes = wan_autoencoder_parameters(models.wan.autoencoder.path)
    latents = normalised_core_latents(latent.get("samples"), sizes)
    return latents, _frame_count(latent, latents.shape[1]), sizes.pixels_per_latent


def _tiles(models: FantasyTalkingModels, latents: Tensor, tiling: str) -> TileSizes | None:
    from ..core_models.video_diffusion.wan.tiled_decoding import RELEASED_TILES

    return RELEASED_TILES if planned_tiles(models, latents, tiling) else None


def _require_own(wan: WanModels, latent: Mapping[str, Any]) -> None:
    """Raise ValueError for latents that say another autoencoder decodes them; those of other nodes say nothing."""
    own, wanted = autoencoder_name(wan), latent.get(AUTOENCODER)
    if wanted not in (None, own):
        raise ValueError(
            f"the latents belong to another model's autoencoder ({wanted}) than the connected one's ({own}), which "
            "would make noise of them: connect the model that sampled them"
        )


def _frame_count(latent: Mapping[str, Any], latents: int) -> int | None:
    """Return how many frames are the clip's; None, all of them, where its latents are no longer those counted."""
    count, counted = latent.get(FRAME_COUNT), latent.get(LATENT_COUNT)
    if count is None or counted == latents:
        return count
    logger.info(
        "the latents hold %d frames, of which %s were counted when they were sampled: all are decoded",
        *(latents, counted),
    )
    return None
