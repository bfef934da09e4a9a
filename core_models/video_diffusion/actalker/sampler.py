"""ACTalker's sampling loop: Euler steps over circular shifted windows, with four-stream guidance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...types import ProgressCallback
from .. import edm
from ..block_checks import CheckCallback, checked_between
from .circular_windows import circular_windows, shift_at
from .controls import ControlSignal, Region, UNetControls
from .guidance import GuidanceScales, ramp, stream_weights
from .unet import ACTalkerUNet

PreviewCallback = Callable[[Tensor], None]
"""Called after each step with the clean latents estimated so far, (N, C, H, W)."""


@dataclass(frozen=True)
class SamplingOptions:
    """How a clip is sampled; the defaults are the released model's.

    steps: Euler steps from sigma_max to sigma_min. guidance: at the first step; guidance_end: at the last, None for
    the same. window: frames sampled together; overlap: shared by neighbours; shift: how far the windows move on from
    step to step. padding: frames without signals sampled after the clip and thrown away; None is one window.
    strength: 0..1, how much of the way from noise is gone: below 1 the first steps are left out and the clip stays
    nearer to the portrait. streams_at_once: guidance streams in one evaluation; fewer need less memory.
    Raises ValueError for values out of range.
    """

    steps: int = 25
    guidance: GuidanceScales = field(default_factory=GuidanceScales)
    guidance_end: GuidanceScales | None = None
    window: int = 25
    overlap: int = 0
    shift: int = 7
    padding: int | None = None
    strength: float = 1.0
    sigma_min: float = edm.SIGMA_MIN
    sigma_max: float = edm.SIGMA_MAX
    streams_at_once: int = 4

    def __post_init__(self) -> None:
        if self.steps < 1 or self.window < 1 or self.streams_at_once < 1:
            raise ValueError(
                f"steps is {self.steps}, window {self.window} and streams_at_once {self.streams_at_once}, "
                "expected at least 1 of each"
            )
        if not 0 <= self.overlap < self.window:
            raise ValueError(f"overlap is {self.overlap}, expected 0..{self.window - 1}: below the window")
        if self.padding is not None and self.padding < 0:
            raise ValueError(f"padding is {self.padding}, expected at least 0, or None for one window")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min is {self.sigma_min} and sigma_max {self.sigma_max}, expected 0 < sigma_min < sigma_max"
            )
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}, expected above 0 and at most 1")
        if int(self.steps * self.strength) < 1:
            raise ValueError(
                f"a strength of {self.strength} leaves none of {self.steps} steps: raise one of the two"
            )

    def guidance_at(self, step: int, steps: int) -> GuidanceScales:
        """Return the scales of a step, counted from 0, of the `steps` that are taken."""
        end = self.guidance_end or self.guidance
        names = ("identity", "audio", "motion")
        return GuidanceScales(*(ramp(getattr(self.guidance, n), getattr(end, n), steps, step) for n in names))


@dataclass(frozen=True)
class SignalTokens:
    """One signal of a clip. tokens: (N, T, width). unconditional: (T, width), of none. regions: where it works;
    their weights are (N,); none means closed."""

    tokens: Tensor
    unconditional: Tensor
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class ClipConditions:
    """All that a clip is made from.

    identity: (1, width) token. audio, motion: the signals, N frames each. portrait: (C, H, W) latents of the portrait
    as the network sees them (unscaled). pose: (channels, H, W) features of the face mask. time_conditions: (3,) frame
    rate and the two motion buckets.
    Raises ValueError when the signals differ in length, or a region's weights from them.
    """

    identity: Tensor
    audio: SignalTokens
    motion: SignalTokens
    portrait: Tensor
    pose: Tensor
    time_conditions: Tensor

    def __post_init__(self) -> None:
        if len(self.audio.tokens) != len(self.motion.tokens) or not len(self.audio.tokens):
            raise ValueError(
                f"audio has {len(self.audio.tokens)} frames and motion {len(self.motion.tokens)}: both need the clip's"
            )
        for region in (*self.audio.regions, *self.motion.regions):
            if region.weight is not None and region.weight.shape != (self.frame_count,):
                raise ValueError(
                    f"a region's weight has shape {tuple(region.weight.shape)}, "
                    f"expected {(self.frame_count,)}, one for each frame"
                )

    @property
    def frame_count(self) -> int:
        """N, frames of the clip, padding not counted."""
        return len(self.audio.tokens)


def sample_latents(
    unet: ACTalkerUNet,
    conditions: ClipConditions,
    start: Tensor,
    noise: Tensor,
    options: SamplingOptions = SamplingOptions(),
    progress: ProgressCallback | None = None,
    preview: PreviewCallback | None = None,
    check: CheckCallback | None = None,
) -> Tensor:
    """Return the clip's latents with its padding frames, (N + padding, C, H, W) float32, scaled as `start` is.

    start: (C, H, W), the portrait's scaled latents, which the noise is added to. noise: (N + padding, C, H, W).
    progress: called after each window of each step. check: called between the UNet's blocks. Everything sits on one
    device; the loop is in float32, the network in its own dtype.
    Raises ValueError when the noise does not fit the clip, FloatingPointError after the step in which half precision
    overflowed.
    """
    with checked_between(_working_parts(unet), check):
        return _sampled(unet, conditions, start, noise, options, progress, preview)


def _working_parts(unet: ACTalkerUNet) -> Iterator[nn.Module]:
    """Yield each ResNet and each transformer of the network: a window may take minutes."""
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        yield from (*block.resnets, *getattr(block, "attentions", ()))


def _sampled(
    unet: ACTalkerUNet,
    conditions: ClipConditions,
    start: Tensor,
    noise: Tensor,
    options: SamplingOptions,
    progress: ProgressCallback | None,
    preview: PreviewCallback | None,
) -> Tensor:
    total = conditions.frame_count + (options.window if options.padding is None else options.padding)
    if noise.shape != (total, *start.shape):
        raise ValueError(f"the noise has shape {tuple(noise.shape)}, expected {(total, *start.shape)}")
    sigmas = edm.karras_sigmas(options.steps, options.sigma_min, options.sigma_max).to(noise.device)
    sigmas = sigmas[options.steps - int(options.steps * options.strength) :]
    latents = start + sigmas[0] * noise.float()
    steps = len(sigmas) - 1
    tick = _counted(progress, steps * len(circular_windows(total, options.window, options.overlap)))
    for step in range(steps):
        shift = shift_at(step, options.shift, options.window)
        windows = circular_windows(total, options.window, options.overlap, shift)
        levels, scales = (sigmas[step], sigmas[step + 1]), options.guidance_at(step, steps)
        before = latents
        latents = _stepped(unet, before, levels, conditions, windows, scales, options.streams_at_once, tick)
        _require_finite(latents, unet, step)
        if preview is not None:
            preview(_clean_estimate(before, latents, *levels)[: conditions.frame_count])
    return latents


def _counted(progress: ProgressCallback | None, total: int) -> Callable[[], None]:
    """Return what is to be called after each of `total` windows."""
    numbers = itertools.count(1)
    return (lambda: None) if progress is None else (lambda: progress(next(numbers), total))


def _stepped(
    unet: ACTalkerUNet,
    latents: Tensor,
    levels: tuple[Tensor, Tensor],
    conditions: ClipConditions,
    windows: list[list[int]],
    scales: GuidanceScales,
    at_once: int,
    tick: Callable[[], None],
) -> Tensor:
    """Return all latents after the step between two noise levels; frames that windows share get the mean."""
    sums, counts = torch.zeros_like(latents), latents.new_zeros(len(latents), 1, 1, 1)
    for frames in windows:
        index = torch.tensor(frames, device=latents.device)
        v = _guided(unet, latents[index], levels[0], conditions, frames, scales, at_once)
        sums = sums.index_add(0, index, edm.euler_step(latents[index], v, *levels))
        counts = counts.index_add(0, index, counts.new_ones(len(frames), 1, 1, 1))
        tick()
    return sums / counts


def _require_finite(latents: Tensor, unet: ACTalkerUNet, step: int) -> None:
    if not torch.isfinite(latents).all():
        dtype = str(next(unet.parameters()).dtype).removeprefix("torch.")
        raise FloatingPointError(
            f"sampling in {dtype} gave infinity or NaN in step {step + 1}: choose bfloat16 or float32 as precision"
        )


def _clean_estimate(before: Tensor, after: Tensor, sigma: Tensor, following: Tensor) -> Tensor:
    """Return where the straight line of a step ends, at noise level 0."""
    return before + (after - before) * (sigma / (sigma - following))


def _guided(
    unet: ACTalkerUNet,
    noisy: Tensor,
    sigma: Tensor,
    conditions: ClipConditions,
    frames: list[int],
    scales: GuidanceScales,
    at_once: int,
) -> Tensor:
    """Return the guided v of one window, (F, C, H, W) float32."""
    window = _window(conditions, frames)
    weights = stream_weights(scales, hears=window.hears, moves=window.moves)
    streams, v = list(weights), torch.zeros_like(noisy)
    dtype = next(unet.parameters()).dtype
    seen = edm.scaled_input(noisy, sigma).to(dtype)
    for first in range(0, len(streams), at_once):
        group = streams[first : first + at_once]
        latents = torch.stack([torch.cat([seen, window.portraits(stream)], dim=1) for stream in group])
        found = unet(
            latents,
            edm.noise_condition(sigma),
            window.controls(group),
            conditions.time_conditions.expand(len(group), -1),
            conditions.pose.expand(len(group), len(frames), *conditions.pose.shape),
        )
        for stream, value in zip(group, found, strict=True):
            v = v + weights[stream] * value.float()
    return v


@dataclass(frozen=True)
class _Window:
    """The conditions of one window's frames; rows of padding frames are unconditional."""

    conditions: ClipConditions
    count: int
    audio: SignalTokens
    motion: SignalTokens
    hears: bool
    moves: bool

    def portraits(self, stream: int) -> Tensor:
        """Return (F, C, H, W): the portrait's latents beside each frame; zeros in stream 0."""
        portrait = self.conditions.portrait
        return (portrait if stream > 0 else torch.zeros_like(portrait)).expand(self.count, *portrait.shape)

    def controls(self, streams: list[int]) -> UNetControls:
        """Return the controls of several streams as one batch."""
        identity = self.conditions.identity
        rows = torch.stack([identity if stream > 0 else torch.zeros_like(identity) for stream in streams])
        return UNetControls(
            rows[:, None].expand(-1, self.count, -1, -1),
            _signal(self.audio, [stream >= 2 for stream in streams]),
            _signal(self.motion, [stream >= 3 for stream in streams]),
        )


def _signal(signal: SignalTokens, given: list[bool]) -> ControlSignal:
    none = signal.unconditional.expand_as(signal.tokens)
    return ControlSignal(torch.stack([signal.tokens if there else none for there in given]), signal.regions)


def _window(conditions: ClipConditions, frames: list[int]) -> _Window:
    """Return the conditions of some frames; those past the clip's end get none of the signals."""
    clip = torch.tensor([frame < conditions.frame_count for frame in frames])
    audio, motion = (_of_frames(signal, frames, clip) for signal in (conditions.audio, conditions.motion))
    hears, moves = (_is_open(signal, clip) for signal in (audio, motion))
    return _Window(conditions, len(frames), audio, motion, hears, moves)


def _is_open(signal: SignalTokens, clip: Tensor) -> bool:
    """Whether a window's signal counts in any of the clip's own frames."""
    return bool(clip.any()) and any(
        region.weight is None or bool(region.weight[clip.to(region.weight.device)].any())
        for region in signal.regions
    )


def _of_frames(signal: SignalTokens, frames: list[int], clip: Tensor) -> SignalTokens:
    """Return a signal on some frames, without the regions that count in none of them."""
    device = signal.tokens.device
    # Weights of padding frames are those of the clip's last frame.
    index = torch.tensor(frames).clamp(max=len(signal.tokens) - 1).to(device)
    tokens = torch.where(clip.to(device)[:, None, None], signal.tokens[index], signal.unconditional)
    placed = (
        region if region.weight is None else replace(region, weight=region.weight.to(device)[index])
        for region in signal.regions
    )
    regions = tuple(region for region in placed if region.weight is None or region.weight.any())
    return replace(signal, tokens=tokens, regions=regions)
