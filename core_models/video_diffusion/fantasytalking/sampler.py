"""FantasyTalking's sampling loop: Euler steps on a whole clip, window by window, with guidance by prompt and sound.

A clip that fits one window is sampled as the release does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from diffusers import FirstBlockCacheConfig
from torch import Tensor

from ...types import ProgressCallback
from ..block_checks import CheckCallback, checked_between
from ..wan.flow_matching import RELEASE_SHIFT, euler_step, shifted_sigmas, timesteps
from .clip_conditions import ClipConditions, WindowConditions, heard, of_window, on_device
from .constant_keys import KeyValueCache
from .guidance import GuidanceSchedule, Stream, combined, stream_weights
from .long_windows import OVERLAP, WINDOW, Ledger, Window, ledger
from .shared_beginning import SharedBeginning

if TYPE_CHECKING:
    from .model import FantasyTalkingModel

PreviewCallback = Callable[[Tensor], None]
"""Called after each step with the clean latents estimated so far, (F, C, h, w) float32: frames first, for
`latent_preview`."""
_OVERFLOW_ADVICE = {
    torch.float16: "choose bfloat16 or float32 in Load Wan",
    torch.bfloat16: "lower the guidance, or choose float32 in Load Wan",
}
"""What to do about infinity or NaN, by what was computed in; in float32 it is not the precision."""


@dataclass(frozen=True)
class SamplingOptions:
    """How a clip is sampled; the defaults are the released program's.

    steps: Euler steps. shift: of the noise levels; above 1, more steps are spent at high noise. guidance: scales over
    the steps. window: latent frames evaluated together, the anchor among them; overlap: latent frames that neighbours
    share at least. streams_at_once: guidance streams in one evaluation; fewer need less memory. keys_kept: keep the
    keys and values of prompts, picture, sound and identity from step to step, for memory. first_block_cache:
    approximate; where the first block's output has changed by less than this share since a stream was last computed in
    full, the other blocks are not computed but what they added then is; None computes all.
    Raises ValueError for values out of range.
    """

    steps: int = 30
    shift: float = RELEASE_SHIFT
    guidance: GuidanceSchedule = field(default_factory=GuidanceSchedule)
    window: int = WINDOW
    overlap: int = OVERLAP
    streams_at_once: int = 1
    first_block_cache: float | None = None
    keys_kept: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.window < 1 or self.streams_at_once < 1:
            raise ValueError(
                f"steps is {self.steps}, window {self.window} and streams_at_once {self.streams_at_once}, "
                "expected at least 1 of each"
            )
        if self.first_block_cache is not None and not 0 < self.first_block_cache < 1:
            raise ValueError(
                f"first_block_cache is {self.first_block_cache}, expected between 0 and 1, or None to compute all"
            )


@torch.no_grad()
def sample_latents(
    model: FantasyTalkingModel,
    conditions: ClipConditions,
    noise: Tensor,
    options: SamplingOptions = SamplingOptions(),
    progress: ProgressCallback | None = None,
    preview: PreviewCallback | None = None,
    check: CheckCallback | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return a clip's latents, (1, C, F, h, w) float32, where the noise is.

    model: anything with the forward of `FantasyTalkingModel`, its transformer and computing_dtype. noise:
    (1, C, F, h, w), standard normal; drawn on the CPU by a seed it gives the same clip on any device, but for rounding.
    The clip stays where the noise is; its windows go to `device` one at a time (None: where the model's weights are).
    progress: called with the streams computed so far, and all of them, after each evaluation.
    Raises ValueError when noise and conditions do not fit, FloatingPointError in the step in which half precision
    overflowed.
    """
    book = ledger(noise.shape[2], options.window, options.overlap) if noise.ndim == 5 else None
    _require_fitting(book, conditions, noise)
    require_fitting_cache(book, options)
    device = next(model.parameters()).device if device is None else torch.device(device)
    keys = KeyValueCache() if options.keys_kept else None
    loop = _Loop(model, on_device(conditions, device), book, options, device, progress, check, keys)
    with checked_between(model.transformer.blocks, check), _cached(model, options.first_block_cache):
        return loop.sampled(noise, preview)


def require_fitting_cache(book: Ledger, options: SamplingOptions) -> None:
    """Raise ValueError for a first-block cache in a clip of several windows."""
    if options.first_block_cache is not None and len(book.windows) > 1:
        raise ValueError(
            f"the first-block cache keeps one state a window, and this clip has {len(book.windows)}: switch it off, "
            "or make a clip of one window"
        )


def _require_fitting(book: Ledger | None, conditions: ClipConditions, noise: Tensor) -> None:
    if book is None or noise.shape[0] != 1:
        raise ValueError(f"the noise has shape {tuple(noise.shape)}, expected (1, C, F, h, w)")
    frames, expected = conditions.image.shape[1:], (book.windows[0].count, *noise.shape[3:])
    if tuple(frames) != expected:
        raise ValueError(
            f"the picture's latents are {tuple(frames)} (frames, height, width), but a window of this noise is "
            f"{expected}: encode the picture for the window's frames"
        )
    intensity = conditions.intensity
    if intensity is not None and tuple(intensity.shape) != (book.frames, 2):
        raise ValueError(
            f"the intensity has shape {tuple(intensity.shape)}, expected {(book.frames, 2)}: face and body of each "
            "latent frame"
        )


@contextmanager
def _cached(model: FantasyTalkingModel, threshold: float | None) -> Iterator[None]:
    """Let the transformer leave blocks out; its state is thrown away at the end."""
    if threshold is None:
        yield
        return
    try:
        model.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        yield
    finally:
        if model.transformer.is_cache_enabled:
            model.transformer.disable_cache()


def _counted(progress: ProgressCallback | None, total: int) -> Callable[[int], None]:
    """Return what is to be called with the number of streams of each evaluation, of `total` in all."""
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return add


@dataclass(frozen=True)
class _Loop:
    """What stays the same over the steps of a clip."""

    model: FantasyTalkingModel
    conditions: ClipConditions
    book: Ledger
    options: SamplingOptions
    device: torch.device
    progress: ProgressCallback | None
    check: CheckCallback | None
    keys: KeyValueCache | None

    def sampled(self, noise: Tensor, preview: PreviewCallback | None) -> Tensor:
        """Return the clip's latents from its noise."""
        sigmas = shifted_sigmas(self.options.steps, self.options.shift)
        latents = noise.float()
        anchors = [latents[:, :, :1]] * len(self.book.windows)
        tick = _counted(self.progress, self.evaluations())
        for step in range(self.options.steps):
            levels = (sigmas[step].item(), sigmas[step + 1].item())
            latents, anchors = self.stepped(latents, anchors, step, levels, tick, preview)
        return latents

    def stepped(
        self,
        latents: Tensor,
        anchors: list[Tensor],
        step: int,
        levels: tuple[float, float],
        tick: Callable[[int], None],
        preview: PreviewCallback | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the clip's latents and the windows' anchors after a step."""
        velocity, anchors = self.velocity(latents, anchors, step, levels, tick)
        if preview is not None:
            preview(euler_step(latents, velocity, levels[0], 0.0)[0].transpose(0, 1))
        return euler_step(latents, velocity, *levels), anchors

    def evaluations(self) -> int:
        """Return how many streams of all windows are computed in all steps."""
        heard_in = [heard(self.conditions, window) is not None for window in self.book.windows]
        return sum(len(self.weights(step, hears)) for step in range(self.options.steps) for hears in heard_in)

    def weights(self, step: int, hears: bool) -> dict[Stream, float]:
        """Return the streams of a step and what they weigh, in a window with sound or without."""
        scales = self.options.guidance.at(step, self.options.steps)
        return stream_weights(scales, self.conditions.reads_prompt, hears)

    def velocity(
        self,
        latents: Tensor,
        anchors: list[Tensor],
        step: int,
        levels: tuple[float, float],
        tick: Callable[[int], None],
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the velocity of the whole clip, cross-faded, and the windows' anchors after the step."""
        total, moved = torch.zeros_like(latents), []
        for index, (window, anchor) in enumerate(zip(self.book.windows, anchors, strict=True)):
            own = slice(window.own_first, window.end)
            seen = torch.cat([anchor, latents[:, :, own]], dim=2) if window.anchored else latents[:, :, own]
            found = self.of_window(seen, window, step, levels[0], tick).to(latents.device)
            _require_finite(found, self.model, step)
            moved.append(euler_step(anchor, found[:, :, :1], *levels))
            share = self.book.of_window(index).to(latents.device)[:, None, None]
            total[:, :, own] += share * found[:, :, window.anchored :]
        return total, moved

    def of_window(
        self, seen: Tensor, window: Window, step: int, sigma: float, tick: Callable[[int], None]
    ) -> Tensor:
        """Return the guided velocity of a window, (1, C, n, h, w) float32."""
        given = of_window(self.conditions, window, self.device)
        weights = self.weights(step, given.hears)
        streams, at_once, velocities = list(weights), self.options.streams_at_once, {}
        beginning = SharedBeginning(keeps=len(streams) > at_once) if len(streams) > 1 else None
        for first in range(0, len(streams), at_once):
            group = streams[first : first + at_once]
            found = self.of_streams(seen, given, group, sigma, beginning)
            velocities.update(zip(group, found, strict=True))
            tick(len(group))
        return combined(weights, velocities)[None]

    def of_streams(
        self,
        seen: Tensor,
        given: WindowConditions,
        streams: list[Stream],
        sigma: float,
        beginning: SharedBeginning | None,
    ) -> Tensor:
        """Return the velocities of streams, (B, C, n, h, w)."""
        if self.check is not None:
            self.check()
        latents = seen.to(self.device).expand(len(streams), -1, -1, -1, -1)
        times = timesteps(torch.full((len(streams),), sigma, device=self.device))
        kept = {"cache": self.keys, "beginning": beginning}
        with self.cache_of(streams):
            conditions = given.of_streams(streams)
            return self.model(
                latents, times, conditions, **{name: one for name, one in kept.items() if one is not None}
            )

    def cache_of(self, streams: list[Stream]) -> AbstractContextManager[None]:
        """Return where the transformer keeps what it remembers of these streams."""
        if self.options.first_block_cache is None:
            return nullcontext()
        return self.model.transformer.cache_context("+".join(stream.name for stream in streams))


def _require_finite(velocity: Tensor, model: FantasyTalkingModel, step: int) -> None:
    if torch.isfinite(velocity).all():
        return
    dtype = model.computing_dtype
    advice = _OVERFLOW_ADVICE.get(dtype, "lower the guidance, or load the weights again")
    name = str(dtype).removeprefix("torch.")
    raise FloatingPointError(f"sampling in {name} gave infinity or NaN in step {step + 1}: {advice}")
