"""What FantasyTalking's savings save, exact and approximate ones apart; with CUDA, a step at the published size.

    python benchmarks/fantasytalking.py [--rounds 3] [--threads 1] [--small-only] [--published-only] [--compile]

A step is one evaluation of all guidance streams. First a small configuration on the processor: operations and seconds
of a step, and how far each result is from the released form's. Then the published size, 81 frames at 512x512, on the
meta device: operations alone. Operations are those of matrix products, attention and convolutions, a product and its
sum as two. With CUDA also: seconds and peak memory of a step at the published size in bfloat16 with made weights, held
on the device, as 8-bit weights, and block by block, beside the machine's measured matrix product.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from unittest import mock

import torch
from renderer import operations, seconds, take_turns
from torch import Tensor

RELEASED_PFLOP = 2.73
"""Of a step of three streams at 512x512, 81 frames, as counted from the released code."""
RELEASED_SECONDS = 15.5
"""A step on one A100 by the released program's own page."""
PUBLISHED_LATENTS, SMALL_LATENTS = (21, 64, 64), (6, 16, 16)
"""Latent frames, height and width."""
PRODUCT_SIDE = 8192
WINDOW_TOKENS = 17
ATTENTION_BACKENDS = ("native", "_native_flash", "_native_cudnn")
"""Of PyTorch, by diffusers' names."""
SMALL = {"heads": 4, "head": 32, "text": 64, "layers": 6, "image": 96, "heard": 48, "sound": 64}
NEW_WEIGHT_SPREAD = 0.02


@dataclass(frozen=True)
class Step:
    """One step of a network; its inputs are fixed by size and seeds."""

    model: torch.nn.Module
    latents: tuple[int, int, int]
    device: str

    def tensor(self, *shape: int, seed: int) -> Tensor:
        """Return normal values in float32, or none of them on the meta device."""
        if self.device == "meta":
            return torch.empty(shape, device="meta")
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)

    def evaluated(self, streams: list, cache=None, beginning=None) -> Tensor:
        """Return the velocities of streams, (B, C, F, h, w)."""
        from talking_portrait.core_models.video_diffusion.fantasytalking.model import DenoiserConditions

        p, (frames, height, width) = self.model.parameters_used, self.latents
        count, wan = len(streams), p.wan
        texts = [self.tensor(1, wan.text_length, wan.text_dim, seed=1 + one.prompted) for one in streams]
        image = self.tensor(1, wan.condition_channels, frames, height, width, seed=3)
        given = DenoiserConditions(
            image=image.expand(count, -1, -1, -1, -1),
            text=torch.cat(texts),
            picture=self.tensor(1, 257, wan.image_dim, seed=4).expand(count, -1, -1),
            **self.sound([one.hears for one in streams]),
        )
        latents = self.tensor(1, wan.out_channels, frames, height, width, seed=6).expand(
            count, -1, -1, -1, -1
        )
        times = torch.full((count,), 700.0, device=self.device)
        return self.model(latents, times, given, cache, beginning)

    def sound(self, hears: list[bool]) -> dict[str, Tensor]:
        """Return the sound of streams, of which some hear it; every window is full."""
        if not any(hears):
            return {}
        frames, count = self.latents[0], len(hears)
        tokens = self.tensor(1, frames, WINDOW_TOKENS, self.model.parameters_used.audio.width, seed=5)
        given = {"audio": tokens.expand(count, -1, -1, -1)}
        if self.device != "meta":  # what lengths and scales do hangs on their values
            given["audio_lengths"] = torch.full((count, frames), WINDOW_TOKENS, device=self.device)
            given["audio_scale"] = torch.tensor(hears, dtype=torch.float32, device=self.device)
        return given

    @torch.no_grad()
    def run(self, form: Form) -> Tensor:
        """Return the guided velocity, (C, F, h, w)."""
        from talking_portrait.core_models.video_diffusion.fantasytalking.guidance import (
            GuidanceScales,
            Stream,
            combined,
            stream_weights,
        )
        from talking_portrait.core_models.video_diffusion.fantasytalking.shared_beginning import (
            SharedBeginning,
        )

        weights = stream_weights(GuidanceScales(form.prompt, form.audio))
        if form.all_three:
            all_three = (Stream(False, False), Stream(True, False), Stream(True, True))
            weights = {stream: weights.get(stream, 0.0) for stream in all_three}
        streams, found = list(weights), {}
        beginning = SharedBeginning(keeps=len(streams) > form.at_once) if form.shares else None
        for first in range(0, len(streams), form.at_once):
            group = streams[first : first + form.at_once]
            found.update(zip(group, self.evaluated(group, form.cache, beginning), strict=True))
        return combined(weights, found)


@dataclass
class Form:
    """How a step is computed. all_three: also streams that weigh nothing, as released. shares: the first block's
    self-attention once for all streams, as the sampler always does."""

    prompt: float = 5.0
    audio: float = 5.0
    all_three: bool = False
    at_once: int = 1
    cache: object | None = None
    shares: bool = False


def small_step(threads: int) -> Step:
    """Return a step of the small configuration on the processor."""
    from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
        AudioProjectionParameters,
    )
    from talking_portrait.core_models.video_diffusion.fantasytalking.model import (
        FantasyTalkingModel,
        FantasyTalkingParameters,
    )
    from talking_portrait.core_models.video_diffusion.wan.transformer import WanParameters

    torch.set_num_threads(threads)
    s = SMALL
    wan = WanParameters(
        s["heads"],
        s["head"],
        text_dim=s["text"],
        freq_dim=64,
        ffn_dim=4 * s["heads"] * s["head"],
        num_layers=s["layers"],
        image_dim=s["image"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FantasyTalkingModel(
            FantasyTalkingParameters(wan=wan, audio=AudioProjectionParameters(s["heard"], s["sound"]))
        )
        for name, weight in model.named_parameters():
            if name.endswith(("processor.k_proj.weight", "processor.v_proj.weight")):
                torch.nn.init.normal_(weight, std=0.1)
    return Step(model.eval().requires_grad_(False), SMALL_LATENTS, "cpu")


def published_step(device: str, dtype: torch.dtype = torch.bfloat16) -> Step:
    """Return a step at the published size: no weights on the meta device, made ones elsewhere."""
    from talking_portrait.core_models.video_diffusion.fantasytalking.model import FantasyTalkingModel
    from talking_portrait.core_models.video_diffusion.wan.transformer import kept_in_float32

    with torch.device("meta"):
        model = FantasyTalkingModel()
    generator = None if device == "meta" else torch.Generator(device).manual_seed(0)
    for name, weight in list(model.named_parameters()):
        wide = not name.startswith("transformer.") or kept_in_float32(name.removeprefix("transformer."))
        made = torch.empty(weight.shape, dtype=torch.float32 if wide else dtype, device=device)
        if generator is not None and "norm" in name and name.endswith("weight"):
            made.fill_(1)
        elif generator is not None:
            made.normal_(0, NEW_WEIGHT_SPREAD, generator=generator)
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, torch.nn.Parameter(made, requires_grad=False))
    model.transformer.rope.to(device)
    return Step(model.eval().requires_grad_(False), PUBLISHED_LATENTS, device)


def write_small(rounds: int, threads: int) -> None:
    """Print operations, seconds and errors of the small configuration."""
    from talking_portrait.core_models.video_diffusion.fantasytalking.constant_keys import KeyValueCache

    step = small_step(threads)
    forms = {
        "as released, three streams": Form(all_three=True),
        "exact: three streams, the first block's self-attention shared": Form(all_three=True, shares=True),
        "exact: streams of weight zero left out (scales equal)": Form(),
        "exact: and the first block's self-attention shared": Form(shares=True),
        "exact: and constant keys and values kept": Form(cache=KeyValueCache(), shares=True),
        "exact: and the streams in one batch": Form(cache=KeyValueCache(capacity=8), at_once=2, shares=True),
        "approximate: no guidance by the prompt (scale 1)": Form(prompt=1.0, shares=True),
        "approximate: no guidance by prompt and sound in this step": Form(prompt=1.0, audio=1.0),
    }
    runs: dict[str, Callable[[], Tensor]] = {
        label: lambda f=form: step.run(f) for label, form in forms.items()
    }
    for run in runs.values():
        run()
    times = take_turns(runs, rounds, "cpu")
    expected, first = runs["as released, three streams"](), None
    for label, run in runs.items():
        middle = statistics.median(times[label])
        first = first or middle
        error = (run() - expected).norm() / expected.norm()
        sys.stdout.write(
            f"{label}: {operations(run) / 1e9:.4g} GFLOP, {middle:.3f} s, {100 * middle / first:.0f} % of the released "
            f"form, relative difference {error:.1e}\n"
        )


def write_published_operations() -> None:
    """Print the operations of a step at the published size."""
    step = published_step("meta", torch.float32)
    forms = {"three streams": Form(all_three=True), "two streams": Form()}
    for label, form in forms.items():
        apart, shared = (published_operations(step, one) for one in (form, replace(form, shares=True)))
        sys.stdout.write(
            f"published size, {label}: {apart / 1e15:.3f} PFLOP (the release's {RELEASED_PFLOP}); with the first "
            f"block's self-attention shared {shared / 1e15:.3f}, {100 * (1 - shared / apart):.2f} % less\n"
        )


def published_operations(step: Step, form: Form) -> int:
    """Return the operations of a step on the meta device, whose tensors hold nothing to compare."""
    with (
        mock.patch.object(torch, "autocast", return_value=nullcontext()),  # it does not know meta
        mock.patch.object(torch, "equal", return_value=True),
    ):
        return operations(lambda: step.run(form))


def matrix_peak() -> float:
    """Return the TFLOP/s of a bfloat16 product of 8192 x 8192 random numbers, the mean of ten."""
    one, other = (
        torch.randn(PRODUCT_SIDE, PRODUCT_SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    )
    for _ in range(3):
        one @ other
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        one @ other
    torch.cuda.synchronize()
    return 10 * 2 * PRODUCT_SIDE**3 / (time.perf_counter() - start) / 1e12


def fastest_attention() -> str:
    """Return the backend that attends soonest at the published size, and print the rates of all."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    frames, height, width = PUBLISHED_LATENTS
    tokens, heads, numbers = frames * height * width // 4, 40, 128
    rows = [torch.randn(1, tokens, heads, numbers, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    times = {}
    for backend in ATTENTION_BACKENDS:
        try:
            times[backend] = min(
                seconds(lambda b=backend: dispatch_attention_fn(*rows, backend=b), "cuda") for _ in range(4)
            )
        except RuntimeError as error:
            sys.stdout.write(f"attention {backend}: {error}\n")
            continue
        rate = 4 * heads * numbers * tokens**2 / times[backend] / 1e12
        sys.stdout.write(f"attention {backend}: {1000 * times[backend]:.1f} ms, {rate:.0f} TFLOP/s\n")
    return min(times, key=times.get)


def write_timed(label: str, step: Step, form: Form, rounds: int, peak: float, streams: int) -> None:
    """Print seconds, rate and memory of a step on CUDA; the first one is not counted."""
    try:
        step.run(form)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            step.run(form)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    except torch.OutOfMemoryError as error:
        sys.stdout.write(f"{label}: out of memory ({error})\n")
        return
    middle = statistics.median(times)
    rate, faster = RELEASED_PFLOP * streams / 3 * 1e3 / middle, RELEASED_SECONDS / middle
    sys.stdout.write(
        f"{label}: {middle:.2f} s a step ({', '.join(f'{one:.2f}' for one in times)}), {rate:.0f} TFLOP/s, "
        f"{100 * rate / peak:.0f} % of the measured product, {faster:.1f} x the published A100 step; "
        f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB\n"
    )
    sys.stdout.flush()


def write_published_on_cuda(rounds: int, compiled: bool) -> None:
    """Print what a step at the published size takes on this card, in every way of holding the weights."""
    from talking_portrait.core_models.video_diffusion.fantasytalking.constant_keys import KeyValueCache
    from talking_portrait.core_models.video_diffusion.wan.float8_linear import store_in_float8
    from talking_portrait.runtime.block_streaming import stream_by_block

    peak = matrix_peak()
    sys.stdout.write(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, product {peak:.0f} TFLOP/s\n"
    )
    step = published_step("cuda")
    transformer = step.model.transformer
    transformer.set_attention_backend(fastest_attention())
    write_timed("on the device, three streams", step, Form(all_three=True), rounds, peak, 3)
    write_timed(
        "exact: two streams, keys and values kept", step, Form(cache=KeyValueCache()), rounds, peak, 2
    )
    shared = Form(cache=KeyValueCache(), shares=True)
    write_timed("exact: and the first block's self-attention shared", step, shared, rounds, peak, 2)
    if compiled:
        for block in transformer.blocks:
            block.compile()
        write_timed("compiled blocks, three streams", step, Form(all_three=True), rounds, peak, 3)
        for block in transformer.blocks:
            block._compiled_call_impl = None
    start = time.perf_counter()
    for block in transformer.blocks:
        block.to("cpu")
    torch.cuda.empty_cache()
    sys.stdout.write(f"blocks brought to main memory in {time.perf_counter() - start:.0f} s\n")
    start = time.perf_counter()
    stream_by_block(step.model, transformer.blocks, "cuda")
    sys.stdout.write(f"and page-locked in {time.perf_counter() - start:.0f} s\n")
    write_timed("streamed by block, three streams", step, Form(all_three=True), rounds, peak, 3)
    write_timed("streamed by block, two streams", step, Form(), rounds, peak, 2)
    del step, transformer
    gc.collect()  # the hooks of a streamed network refer to each other
    torch.cuda.empty_cache()
    step = published_step("cuda")
    store_in_float8(step.model.transformer.blocks, torch.bfloat16)
    torch.cuda.empty_cache()
    write_timed("8-bit weights, two streams", step, Form(), rounds, peak, 2)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small-only", action="store_true", help="leave out the published size")
    parser.add_argument("--published-only", action="store_true", help="leave out the small configuration")
    parser.add_argument("--compile", action="store_true", help="with CUDA: also with compiled blocks")
    arguments = parser.parse_args()
    sys.stdout.write(
        f"{arguments.threads} threads, load average {os.getloadavg()[0]:.1f}, torch {torch.__version__}\n"
    )
    if not arguments.published_only:
        write_small(arguments.rounds, arguments.threads)
    if arguments.small_only:
        return
    write_published_operations()
    if torch.cuda.is_available():
        write_published_on_cuda(arguments.rounds, arguments.compile)


if __name__ == "__main__":
    main()
