"""What ACTalker's exact savings save: a step as released against ours, saving by saving, in one run.

    python benchmarks/actalker.py [--frames 4] [--rounds 3] [--threads 1] [--small-only]

A step is one evaluation of all guidance streams for one window, with regions over the whole picture. First the small
UNet that the numeric references were made with, 16x16 latents: operations and seconds. Then the published size, 25
frames at 576x576, on the meta device: operations alone. Operations are those of matrix products and convolutions, a
product and its sum as two; the scans' own are not among them. Savings come one on top of the other; all are exact but
for rounding, and the error against the released form is printed. With CUDA also: seconds and peak memory of a step at
the published size in float16, with made weights, beside what the memory plan says.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from unittest import mock

import torch
from renderer import operations, seconds, take_turns
from torch import Tensor
from torch.nn import functional

PLANNED_GIGABYTES, LONG_CLIP_FRAMES = (4.5, 8, 12, 16, 24), 500
RELEASED_TFLOP = 185.2
"""Of a step at the published size, as counted from the released code."""
PUBLISHED_FRAMES, PUBLISHED_LATENTS = 25, 72
SMALL_LATENTS = 16
AUDIO_TOKENS = 32
BOTH, SOUND, MOTION = "sound and motion", "sound alone", "motion alone"
OPEN = {BOTH: (True, True), SOUND: (True, False), MOTION: (False, True)}


@dataclass(frozen=True)
class Savings:
    """Which are made. Each name says what is done; none of them is the released form."""

    equal_streams_once: bool = False
    temporal_tokens_once: bool = False
    empty_scans_skipped: bool = False
    closed_adapters_skipped: bool = False
    single_tokens_by_value: bool = False


STEPS = (
    ("as released", Savings()),
    ("equal streams once", Savings(True)),
    ("and tokens of temporal attention projected once, not at every place", Savings(True, True)),
    ("and empty scans skipped", Savings(True, True, True)),
    ("and adapters of closed signals skipped", Savings(True, True, True, True)),
    ("and single tokens by their value", Savings(True, True, True, True, True)),
)
SMALL = {
    "channels": (32, 64, 64, 64),
    "heads": (2, 4, 4, 4),
    "condition_width": 96,
    "time_condition_width": 32,
}


class KeptMask:
    """A mask that stays on the CPU: which tokens it selects depends on its values, and meta tensors have none."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    def to(self, _device: object) -> Tensor:
        """Return the mask as it is."""
        return self.mask


@dataclass(frozen=True)
class Step:
    """One step of a UNet: random inputs that its size and the generator's seed fix."""

    unet: torch.nn.Module
    frames: int
    side: int
    device: str

    def tensor(self, *shape: int, seed: int) -> Tensor:
        """Return normal values in the UNet's dtype, or none of them on the meta device."""
        dtype = next(self.unet.parameters()).dtype
        if self.device == "meta":
            return torch.empty(shape, dtype=dtype, device="meta")
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device, dtype)

    def run(self, gates: tuple[bool, bool], savings: Savings, at_once: int = 4) -> Tensor:
        """Return the guided v of the window, (F, C, H, W)."""
        from talking_portrait.core_models.video_diffusion.actalker.guidance import (
            GuidanceScales,
            stream_weights,
        )

        hears, moves = gates if savings.equal_streams_once else (True, True)
        weights = stream_weights(GuidanceScales(), hears, moves)
        streams, total = list(weights), 0.0
        with torch.no_grad(), changed(savings, self.device):
            for first in range(0, len(streams), at_once):
                group = streams[first : first + at_once]
                for stream, value in zip(group, self._evaluated(group, gates, savings), strict=True):
                    total = total + weights[stream] * value
        return total

    def _evaluated(self, group: list[int], gates: tuple[bool, bool], savings: Savings) -> Tensor:
        parameters, frames = self.unet.parameters_used, self.frames
        latents = self.tensor(frames, 4, self.side, self.side, seed=1)
        portrait = self.tensor(1, 4, self.side, self.side, seed=2).expand_as(latents)
        seen = torch.stack([torch.cat([latents, portrait * (stream > 0)], 1) for stream in group])
        pose = self.tensor(parameters.channels[0], self.side, self.side, seed=3)
        return self.unet(
            seen,
            torch.tensor(0.4, device=self.device),
            self._controls(group, gates, savings),
            self.tensor(3, seed=4).expand(len(group), -1),
            pose.expand(len(group), frames, -1, -1, -1),
        )

    def _controls(self, group: list[int], gates: tuple[bool, bool], savings: Savings):
        from talking_portrait.core_models.video_diffusion.actalker.controls import UNetControls

        width = self.unet.parameters_used.condition_width
        identity = self.tensor(1, 1, width, seed=5).expand(self.frames, -1, -1)
        return UNetControls(
            torch.stack([identity * (stream > 0) for stream in group]),
            self._signal([stream >= 2 for stream in group], AUDIO_TOKENS, 6, gates[0], savings),
            self._signal([stream >= 3 for stream in group], 1, 8, gates[1], savings),
        )

    def _signal(self, given: list[bool], tokens: int, seed: int, opened: bool, savings: Savings):
        """Return a signal; the release multiplies the tokens of a closed one by 0 and empties its mask."""
        from talking_portrait.core_models.video_diffusion.actalker.controls import ControlSignal, Region

        width = self.unet.parameters_used.condition_width
        own = self.tensor(self.frames, tokens, width, seed=seed)
        none = self.tensor(tokens, width, seed=seed + 1).expand_as(own)
        rows = torch.stack([own if there else none for there in given]) * opened
        mask = KeptMask(torch.full((8 * self.side, 8 * self.side), float(opened)))
        given_at_all = opened or not savings.closed_adapters_skipped
        return ControlSignal(rows, (Region(mask),) if given_at_all else ())


@contextlib.contextmanager
def changed(savings: Savings, device: str) -> Iterator[None]:
    """Undo the savings that are not wanted, and let masks that stay on the CPU select tokens anywhere."""
    from talking_portrait.core_models.ssm import masked_ssm
    from talking_portrait.core_models.video_diffusion.actalker import control_attention, controls

    placed = controls.region_on_tokens

    def anywhere(mask: Tensor, count: int, grid: tuple[int, int] | None = None) -> tuple[Tensor, ...]:
        return tuple(values.to(device) for values in placed(mask, count, grid))

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(controls, "region_on_tokens", anywhere))
        if not savings.temporal_tokens_once:
            kind = control_attention.ControlAttention
            stack.enter_context(mock.patch.object(kind, "forward", projected_at_every_place()))
        if not savings.single_tokens_by_value:
            stack.enter_context(mock.patch.object(control_attention, "attended", attended_in_full))
        if not savings.empty_scans_skipped:
            stack.enter_context(mock.patch.object(masked_ssm._Branches, "_branch", scanned_even_if_empty()))
        yield


def projected_at_every_place() -> Callable:
    """Return an attention that projects its tokens for each row of queries, as equal as they are."""
    from talking_portrait.core_models.video_diffusion.actalker.control_attention import (
        AttentionContext,
        ControlAttention,
        SignalContext,
    )

    forward = ControlAttention.forward

    def at_every_place(self, attn, hidden_states, encoder_hidden_states, attention_mask=None):
        context = encoder_hidden_states
        rows = len(hidden_states) // len(context.identity)
        signals = (
            s and SignalContext(s.tokens.repeat_interleave(rows, 0), s.weight) for s in context.signals
        )
        repeated = AttentionContext(context.identity.repeat_interleave(rows, 0), tuple(signals))
        return forward(self, attn, hidden_states, repeated)

    return at_every_place


def attended_in_full(queries: Tensor, tokens: Tensor, to_k, to_v, heads: int) -> Tensor:
    """Return attention without a short way for a single token."""
    split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, to_k(tokens), to_v(tokens)))
    return functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


def scanned_even_if_empty() -> Callable:
    """Return a branch that scans identity and control tokens for nothing where it selects no token."""
    from talking_portrait.core_models.ssm.masked_ssm import _Branches

    branch = _Branches._branch

    def with_scan(self, entered, identity, signal, project, unit):
        if not any(len(region.selected) for region in signal.passes):
            unit(torch.cat([identity, functional.silu(project(signal.tokens))], dim=1))
        return branch(self, entered, identity, signal, project, unit)

    return with_scan


def products(step: Step, gates: tuple[bool, bool], savings: Savings) -> int:
    """Return the operations of a step, but for those within scans."""
    from talking_portrait.core_models.ssm import masked_ssm

    def unscanned(inputs: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        return torch.empty_like(inputs), None

    with mock.patch.object(masked_ssm, "selective_scan", unscanned):
        return operations(lambda: step.run(gates, savings))


def cacheable_products(parameters, frames: int) -> int:
    """Return the operations of a stream's control projections: equal at every step for the same frames.

    Keys and values of the audio adapter, values of identity and motion, for the spatial and (of tokens averaged over
    frames) the temporal attention; and the layer's projections of identity, audio and motion.
    """
    channels, layers = parameters.channels, parameters.layers
    attending = sum((2 * layers + 1) * width for width in channels[:-1])
    attention = (attending + channels[-1]) * (2 * AUDIO_TOKENS + 2) * (frames + 1)
    scans = 2 * attending * (AUDIO_TOKENS + 3) * frames
    return 2 * parameters.condition_width * (attention + scans)


def write_operations(step: Step, unit: float, name: str) -> None:
    """Print the operations of every form at every setting of the gates."""
    for setting, gates in OPEN.items():
        counts = {label: products(step, gates, savings) for label, savings in STEPS}
        released, before = counts["as released"], None
        for label, count in counts.items():
            saved = "" if before is None else f", {100 * (before - count) / released:.2f} % of the step less"
            sys.stdout.write(f"{setting}, {label}: {count / unit:.4g} {name}{saved}\n")
            before = count
        streams = 4 if setting == BOTH else 3
        cacheable = streams * cacheable_products(step.unet.parameters_used, step.frames)
        sys.stdout.write(
            f"{setting}, control projections cached would save at most {cacheable / unit:.4g} {name}, "
            f"{100 * cacheable / counts[STEPS[-1][0]]:.2f} % of what is left\n"
        )


def write_seconds(step: Step, rounds: int) -> None:
    """Print the median seconds of every form, and how far its result is from the released form's."""
    for setting, gates in OPEN.items():
        runs = {label: lambda g=gates, s=savings: step.run(g, s) for label, savings in STEPS}
        times = take_turns(runs, rounds, step.device)
        expected = runs["as released"]().float()
        first = statistics.median(times["as released"])
        for label, run in runs.items():
            middle = statistics.median(times[label])
            error = (run().float() - expected).norm() / expected.norm()
            sys.stdout.write(
                f"{setting}, {label}: {middle:.3f} s, {100 * middle / first:.0f} % of the released form, "
                f"relative difference {error:.1e}\n"
            )


def new_step(parameters, frames: int, side: int, device: str, dtype: torch.dtype) -> Step:
    """Return a step of a UNet with weights that a fixed seed makes, or none on the meta device."""
    from talking_portrait.core_models.video_diffusion.actalker.unet import ACTalkerUNet

    with torch.random.fork_rng(devices=[]), torch.device("meta" if device == "meta" else "cpu"):
        torch.manual_seed(0)
        unet = ACTalkerUNet(parameters)
    unet = unet.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return Step(unet, frames, side, device)


def write_published_on_cuda(rounds: int) -> None:
    """Print seconds and peak memory of a step in float16, all streams at once and one after the other."""
    from talking_portrait.core_models.video_diffusion.actalker.memory_plan import activation_bytes
    from talking_portrait.core_models.video_diffusion.actalker.unet import UNetParameters

    parameters, half = UNetParameters(), torch.float16
    step = new_step(parameters, PUBLISHED_FRAMES, PUBLISHED_LATENTS, "cuda", half)
    latents = (PUBLISHED_LATENTS, PUBLISHED_LATENTS)
    planned = activation_bytes(parameters, PUBLISHED_FRAMES, latents, half.itemsize)
    sys.stdout.write(f"{torch.cuda.get_device_name()}, {PUBLISHED_FRAMES} frames at 576x576 in float16\n")
    for at_once in (1, 2, 4):
        try:
            step.run(OPEN[BOTH], STEPS[-1][1], at_once)
        except torch.OutOfMemoryError:
            sys.stdout.write(f"{at_once} streams at once: out of memory\n")
            continue
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        times = [
            seconds(lambda n=at_once: step.run(OPEN[BOTH], STEPS[-1][1], n), "cuda") for _ in range(rounds)
        ]
        extra = torch.cuda.max_memory_allocated() - held
        middle = statistics.median(times)
        sys.stdout.write(
            f"{at_once} streams at once: {middle:.2f} s, {RELEASED_TFLOP / middle:.0f} TFLOP/s of the released step; "
            f"peak {extra / 1e9:.2f} GB over {held / 1e9:.2f} GB of weights, planned {at_once * planned / 1e9:.2f} GB, "
            f"reserved {torch.cuda.max_memory_reserved() / 1e9:.2f} GB\n"
        )


def write_plans() -> None:
    """Write how clips at 576x576 in float16 would be run with so much memory, a short one and a long one."""
    from talking_portrait.core_models.video_diffusion.actalker.memory_plan import plan_for
    from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerParameters
    from talking_portrait.core_models.video_diffusion.autoencoder import PUBLISHED_AUTOENCODER

    for gigabytes in PLANNED_GIGABYTES:
        for frames in (PUBLISHED_FRAMES, LONG_CLIP_FRAMES):
            plan = plan_for(
                *(ACTalkerParameters(), PUBLISHED_AUTOENCODER, (576, 576), frames, "float16"),
                int(gigabytes * 1e9),
            )
            sys.stdout.write(f"{frames} frames: {plan.describe()}\n")


def main() -> None:
    """Read the arguments and measure."""
    from talking_portrait.core_models.video_diffusion.actalker.unet import UNetParameters

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=4, help="of the small configuration")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small-only", action="store_true", help="leave out the published size")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sys.stdout.write(
        f"{arguments.threads} threads, load average {os.getloadavg()[0]:.1f}, torch {torch.__version__}\n"
    )
    sys.stdout.write(f"small, {arguments.frames} frames, {SMALL_LATENTS}x{SMALL_LATENTS} latents\n")
    step = new_step(UNetParameters(**SMALL), arguments.frames, SMALL_LATENTS, "cpu", torch.float32)
    write_operations(step, 1e9, "GFLOP")
    write_seconds(step, arguments.rounds)
    if arguments.small_only:
        return
    sys.stdout.write(
        f"published size, {PUBLISHED_FRAMES} frames at 576x576; the released step takes {RELEASED_TFLOP} TFLOP\n"
    )
    published = new_step(UNetParameters(), PUBLISHED_FRAMES, PUBLISHED_LATENTS, "meta", torch.float16)
    write_operations(published, 1e12, "TFLOP")
    write_plans()
    if torch.cuda.is_available():
        write_published_on_cuda(arguments.rounds)


if __name__ == "__main__":
    main()
