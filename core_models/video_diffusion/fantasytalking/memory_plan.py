"""How much memory FantasyTalking takes for a clip, and how it is run so that it fits.

Sizes are worked out before anything is loaded. Nothing that is chosen here changes the clip but for rounding; weights
in 8 bits do, and are used only where somebody asked for them. Steps of the work follow each other, and what each takes
is on the device at the same time as the transformer, or what stays of it: text encoder and CLIP leave before sampling.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ..memory_sizes import RESERVE_SHARE, NetworkBytes, gigabytes
from ..wan.autoencoder import WanAutoencoderParameters
from ..wan.memory_sizes import (
    EIGHT_BIT_READING_BYTES,
    READING_BYTES,
    SEEING_BYTES,
    clip_vision_bytes,
    encoding_bytes,
    text_encoder_bytes,
    wan_autoencoder_count,
)
from .memory_sizes import (
    AS_COMPUTED,
    WindowSize,
    activation_bytes,
    condition_bytes,
    kept_key_bytes,
    model_bytes,
    shared_beginning_bytes,
)
from .parameters import FantasyTalkingParameters

MOST_STREAMS = 3
"""Guidance streams of a step."""
BUSY_TOKENS = 8192
"""Tokens of a stream that keep a device busy: more streams at once would not be faster where all weights are there."""


@dataclass(frozen=True)
class SceneSize:
    """What is made. height, width: pixels. latents: of the clip. window: latent frames evaluated together.

    Raises ValueError unless all are at least 1.
    """

    height: int
    width: int
    latents: int
    window: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.latents, self.window) < 1:
            raise ValueError(f"{self}: height, width, latents and window must be at least 1")


@dataclass(frozen=True)
class PlannedModel:
    """The networks that make it.

    dtype: such as "bfloat16". storage: one of STORAGES. keys_kept: whether keys and values of what stays the same are
    kept from step to step. text_encoder, clip_vision: whether it has them. eight_bit_text: whether the text encoder's
    file has weights in 8 bits, which stay so. merged: whether LoRAs are merged into the transformer's weights, which
    then are made in main memory.
    """

    parameters: FantasyTalkingParameters
    autoencoder: WanAutoencoderParameters
    dtype: str = "bfloat16"
    storage: str = AS_COMPUTED
    keys_kept: bool = False
    text_encoder: bool = True
    clip_vision: bool = True
    eight_bit_text: bool = False
    merged: bool = False

    @property
    def number_bytes(self) -> int:
        """Bytes of a number that is computed with."""
        return getattr(torch, self.dtype).itemsize


@dataclass(frozen=True)
class Room:
    """What there is to fit into. device: bytes. main_memory: bytes, None where it cannot be told. may_stream: whether
    blocks may wait in main memory; they cannot where the device computes in it."""

    device: int
    main_memory: int | None = None
    may_stream: bool = True


@dataclass(frozen=True)
class SceneEstimate:
    """Bytes that a clip takes, each part by itself; no part, no bytes.

    transformer: with all that is added to it. text_encoder, clip_vision: None where there is none. autoencoder: its
    weights. activations: of one stream of one window. conditions: what all windows are given, keys that are kept, and
    what the streams of a step share, which is counted also where they come at once and nothing of it is kept.
    encoding: of the picture, a latent frame at a time. reading: of what lives while a prompt is read. merged: in main
    memory, of weights into which LoRAs are merged, before they go to the device.
    """

    transformer: NetworkBytes
    text_encoder: NetworkBytes | None
    clip_vision: NetworkBytes | None
    autoencoder: int
    activations: int
    conditions: int
    encoding: int
    reading: int
    merged: int

    def sampling(self, streamed: bool, streams: int) -> int:
        """Return the bytes on the device while sampling, with a reserve."""
        stays = self.transformer.on_device(streamed) + self.autoencoder + self.conditions
        return stays + _with_reserve(streams * self.activations)

    def preparing(self, streamed: bool) -> int:
        """Return the least on the device before sampling: the text encoder and CLIP streamed where the transformer is,
        beside a streamed transformer's rest; a whole one makes way."""
        beside = self.transformer.by_block if streamed else 0
        reading = self._encoding_form(self.text_encoder, streamed, self.reading)
        seeing = self._encoding_form(self.clip_vision, streamed, SEEING_BYTES)
        return beside + max(reading, seeing, self.autoencoder + _with_reserve(self.encoding))

    @staticmethod
    def _encoding_form(network: NetworkBytes | None, streamed: bool, working: int) -> int:
        return 0 if network is None else network.on_device(streamed) + _with_reserve(working)

    def main_memory(self, streamed: bool) -> int:
        """Return the bytes in main memory: of weights that wait there, or on their way to the device."""
        text = 0 if self.text_encoder is None else self.text_encoder.whole
        return max(self.transformer.main_memory, text) if streamed else self.merged


def _with_reserve(working: int) -> int:
    return math.ceil((1 + RESERVE_SHARE) * working)


@dataclass(frozen=True)
class ScenePlan:
    """How a clip is run.

    streamed: whether the transformer's blocks come to the device one at a time. streams_at_once: guidance streams in
    one evaluation. text_streamed, clip_streamed: likewise of the text encoder and of CLIP.
    """

    model: PlannedModel
    size: SceneSize
    estimate: SceneEstimate
    room: Room
    streamed: bool
    streams_at_once: int
    text_streamed: bool
    clip_streamed: bool

    @property
    def needed_bytes(self) -> int:
        """The bytes on the device at the worst moment of sampling."""
        return self.estimate.sampling(self.streamed, self.streams_at_once)

    @property
    def main_memory_bytes(self) -> int:
        """The bytes in main memory."""
        return self.estimate.main_memory(self.streamed)

    def describe(self) -> str:
        """Return one sentence for the log, before a run."""
        e, size, model = self.estimate, self.size, self.model
        weights = gigabytes(e.transformer.whole)
        stored = "" if model.storage == AS_COMPUTED else f" stored as {model.storage} (approximate)"
        kept = "on the device"
        if self.streamed:
            kept = (
                f"streamed by block ({gigabytes(e.transformer.by_block)} there, "
                f"{gigabytes(self.main_memory_bytes)} of main memory)"
            )
        streams = "1 stream" if self.streams_at_once == 1 else f"{self.streams_at_once} streams"
        return (
            f"windows of {size.window} latent frames at {size.width}x{size.height}: weights {weights} in {model.dtype}"
            f"{stored}, {kept}; {self._described_text()}activations {gigabytes(e.activations)} a stream, {streams} at "
            f"a time; {gigabytes(self.needed_bytes)} of {gigabytes(self.room.device)}"
        )

    def _described_text(self) -> str:
        """Return what the text encoder takes before sampling, nothing where there is none."""
        if self.estimate.text_encoder is None:
            return ""
        stored = " of an 8-bit file" if self.model.eight_bit_text else ""
        kept = ", streamed by block" if self.text_streamed else ""
        return f"beforehand the text encoder, {gigabytes(self.estimate.text_encoder.whole)}{stored}{kept}; "


def scene_estimate(model: PlannedModel, size: SceneSize) -> SceneEstimate:
    """Return what a clip takes."""
    numbers, parameters = model.number_bytes, model.parameters
    side = model.autoencoder.pixels_per_latent
    window = WindowSize(size.window, math.ceil(size.height / side), math.ceil(size.width / side))
    conditions = condition_bytes(parameters, window) + shared_beginning_bytes(parameters, window, numbers)
    if model.keys_kept:
        windows = math.ceil(size.latents / size.window)
        conditions += kept_key_bytes(parameters, window, windows, numbers)
    transformer = model_bytes(parameters, numbers, model.storage)
    return SceneEstimate(
        transformer=transformer,
        text_encoder=text_encoder_bytes(numbers, model.eight_bit_text) if model.text_encoder else None,
        clip_vision=clip_vision_bytes(numbers) if model.clip_vision else None,
        autoencoder=wan_autoencoder_count(model.autoencoder) * numbers,
        activations=activation_bytes(parameters, window, numbers, model.storage),
        conditions=conditions,
        encoding=encoding_bytes(model.autoencoder, size.height, size.width, numbers),
        reading=EIGHT_BIT_READING_BYTES if model.eight_bit_text else READING_BYTES,
        merged=transformer.whole if model.merged else 0,
    )


def plan_for(
    model: PlannedModel,
    size: SceneSize,
    room: Room,
    streams: int | None = None,
    most_streams: int = MOST_STREAMS,
) -> ScenePlan:
    """Return the fastest way to make a clip that fits.

    streams: guidance streams at once, no other number; None for what is fastest. most_streams: that a step has.
    Weights that stay on the device come first, then streamed ones; of each, the most streams that fit, but one where
    one keeps a device busy and no weights are copied. Raises ValueError when nothing fits, with what to change.
    """
    if streams is not None and not 1 <= streams <= MOST_STREAMS:
        raise ValueError(f"streams is {streams}, expected 1..{MOST_STREAMS}, or None for what is fastest")
    limits = _Limits(model, room, streams, most_streams)
    chosen = limits.choice(size)
    if chosen is None:
        raise ValueError(_refusal(limits, size))
    streamed, count = chosen
    return limits.plan(size, streamed, count)


@dataclass(frozen=True)
class _Limits:
    """What a clip must fit into, and what may be chosen for it."""

    model: PlannedModel
    room: Room
    streams: int | None
    most_streams: int

    def forms(self, size: SceneSize) -> Iterator[tuple[bool, int]]:
        """Yield (streamed, streams at once), the fastest first."""
        for streamed in (False, True) if self.room.may_stream else (False,):
            if self.streams is not None:
                yield streamed, min(self.streams, self.most_streams)
                continue
            busy = not streamed and _tokens(self.model, size) >= BUSY_TOKENS
            yield from itertools.product((streamed,), range(1 if busy else self.most_streams, 0, -1))

    def choice(self, size: SceneSize) -> tuple[bool, int] | None:
        estimate = scene_estimate(self.model, size)
        for form in self.forms(size):
            if self.fits(estimate, *form):
                return form
        return None

    def fits(self, estimate: SceneEstimate, streamed: bool, streams: int) -> bool:
        needed = max(estimate.sampling(streamed, streams), estimate.preparing(streamed))
        return needed <= self.room.device and self.fits_main_memory(estimate, streamed)

    def fits_main_memory(self, estimate: SceneEstimate, streamed: bool) -> bool:
        there = self.room.main_memory
        return there is None or estimate.main_memory(streamed) <= there

    def plan(self, size: SceneSize, streamed: bool, streams: int) -> ScenePlan:
        """Return the plan of a form, with text encoder and CLIP whole where they fit beside the transformer."""
        e = scene_estimate(self.model, size)
        left = self.room.device - e.transformer.on_device(streamed)

        def streams_blocks(network: NetworkBytes | None, working: int) -> bool:
            whole = 0 if network is None else network.whole + _with_reserve(working)
            return self.room.may_stream and whole > left

        text = streams_blocks(e.text_encoder, e.reading)
        return ScenePlan(
            self.model,
            size,
            e,
            self.room,
            streamed,
            streams,
            text,
            streams_blocks(e.clip_vision, SEEING_BYTES),
        )


def _tokens(model: PlannedModel, size: SceneSize) -> int:
    side = model.autoencoder.pixels_per_latent
    _, high, wide = model.parameters.wan.patch_size
    return size.window * (size.height // (side * high)) * (size.width // (side * wide))


def _refusal(limits: _Limits, size: SceneSize) -> str:
    """Return what is too much, the least that would do, and what to change."""
    e, room, streams = scene_estimate(limits.model, size), limits.room, limits.streams or 1
    streamed = room.may_stream
    if not limits.fits_main_memory(e, streamed):
        least = max(e.sampling(streamed, streams), e.preparing(streamed))
        if least <= room.device:
            return _main_memory_refusal(limits, e, streamed)
    least = max(e.sampling(streamed, streams), 0 if not streamed else e.preparing(True))
    together = "one stream" if streams == 1 else f"{streams} streams at once"
    return (
        f"a window of {size.window} latent frames at {size.width}x{size.height} in {limits.model.dtype} needs at "
        f"least {gigabytes(least)} ({gigabytes(e.transformer.on_device(streamed) + e.autoencoder)} of weights, "
        f"{gigabytes(streams * e.activations)} for {together}), {gigabytes(room.device)} can be had: "
        f"{_advice(limits, size)}"
    )


def _main_memory_refusal(limits: _Limits, estimate: SceneEstimate, streamed: bool) -> str:
    smaller = (
        ""
        if limits.model.storage != AS_COMPUTED
        else ("switch on eight_bit_weights in Load Wan, which is approximate and needs half of it; or ")
    )
    what, instead = "LoRAs are merged into the transformer's weights in main memory", "leave the LoRAs out"
    if streamed:
        what = "the transformer's blocks would be streamed from main memory"
        instead = "a device on which all weights fit"
    return (
        f"{what}, which takes {gigabytes(estimate.main_memory(streamed))} of it, and "
        f"{gigabytes(limits.room.main_memory)} can be had: {smaller}close other programs, or use a computer with more "
        f"main memory, or {instead}"
    )


def _advice(limits: _Limits, size: SceneSize) -> str:
    """Return the largest values that fit, each by itself, of what can be lowered, and what else can be done."""
    lower = {
        "streams_at_once": next(_fewer_streams(limits, size), None),
        "image_size": next(_smaller_sides(limits, size), None),
        "window": next(_shorter_windows(limits, size), None),
    }
    found = [f"lower {name} to {value}" for name, value in lower.items() if value is not None]
    packed = (
        ""
        if limits.room.may_stream or limits.model.storage != AS_COMPUTED
        else ("switch on eight_bit_weights in Load Wan (approximate), ")
    )
    further = f"{packed}choose another memory level or device, or free memory"
    return f"{' or '.join(found)}; or {further}" if found else f"nothing smaller fits; {further}"


def _fewer_streams(limits: _Limits, size: SceneSize) -> Iterator[int]:
    for streams in range((limits.streams or 1) - 1, 0, -1):
        if replace(limits, streams=streams).choice(size) is not None:
            yield streams


def _smaller_sides(limits: _Limits, size: SceneSize) -> Iterator[int]:
    """Yield the lower lengths of the longer side that the model can take and that fit, the largest first."""
    step = limits.model.parameters.defaults.size_multiple
    longer = max(size.height, size.width)
    for side in range((longer - 1) // step * step, 0, -step):
        height, width = (max(round(s * side / longer / step), 1) * step for s in (size.height, size.width))
        if limits.choice(replace(size, height=height, width=width)) is not None:
            yield side


def _shorter_windows(limits: _Limits, size: SceneSize) -> Iterator[int]:
    """Yield the smaller numbers of video frames in a window that fit, the largest first."""
    step = limits.model.autoencoder.frames_per_latent
    for window in range(size.window - 1, 1, -1):
        if limits.choice(replace(size, window=window)) is not None:
            yield step * (window - 1) + 1
