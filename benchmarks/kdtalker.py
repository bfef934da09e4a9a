"""How fast KDTalker samples at its published size: the plain network against the prepared one, in one run.

    python benchmarks/kdtalker.py [--weights KDTalker.pth] [--device cpu] [--rounds 5] [--threads 2] [--compile]

Without a file the weights are the deterministic ones of tests/golden; time does not depend on them. Forms take turns,
window by window, so that what else the machine does meets all of them; times are medians. Plain is the released way:
windows of 64 frames side by side, every token and every layer computed anew at each step. Ours is what the sampler
does, once with its default overlap and once without, and with four variations at a time. Seconds of compute per second
of speech are a window's time over the frames it adds. The share of the peak is the products that the plain network
takes for a step, over time, over the machine's measured matrix product: it may exceed 100 %, since ours takes fewer.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from renderer import GOLDEN, ROOT, operations, peak, take_turns

ROOT_OF_DEMO = ROOT / "workflows" / "assets" / "demo_speech.wav"

STEP_COUNTS = (10, 50)
SMALLEST_FACTOR_ALL, SMALLEST_FACTOR_STEP = 6.0, 1.4
VARIATIONS = 4


def published_denoiser(path: Path | None) -> torch.nn.Module:
    """Return the denoiser at its published size, of a file or with deterministic weights."""
    from talking_portrait.core_models.key_tables import KEY_TABLES
    from talking_portrait.core_models.keypoint_diffusion.denoiser import Denoiser, DenoiserParameters
    from talking_portrait.core_models.strict_loading import load_strict

    if path is not None:
        return load_strict(
            lambda: Denoiser(DenoiserParameters()), path, KEY_TABLES["kdtalker_pth"], torch.float32
        )
    sys.path[:0] = [str(GOLDEN), str(GOLDEN / "liveportrait_kdtalker")]
    from golden_tools import state_dict_for

    shapes = json.loads((GOLDEN / "liveportrait_kdtalker" / "state_dict_kdtalker.json").read_text())
    state = state_dict_for(shapes, 0.7, ("affine_nd", "rotary_freqs"))
    with torch.device("meta"):
        denoiser = Denoiser(DenoiserParameters())
    names = {name: name.removeprefix("point_model.model.") for name in state}
    denoiser.load_state_dict({names[name]: value for name, value in state.items()}, assign=True)
    return denoiser.eval()


@dataclass(frozen=True)
class Window:
    """What every form samples: clean tokens (1, 2, 70), features (1, 64, 512) and noise (1, 64, 70)."""

    prefix: torch.Tensor
    features: torch.Tensor
    noise: torch.Tensor


def made_window(device: str) -> Window:
    random = torch.Generator().manual_seed(0)
    sizes = ((1, 2, 70), (1, 64, 512), (1, 64, 70))
    return Window(*(torch.randn(size, generator=random).to(device) for size in sizes))


def plain_sampling(denoiser: torch.nn.Module, window: Window, steps: int) -> torch.Tensor:
    """Return (1, 64, 70) by the network as published: all of it computed at every step."""
    from talking_portrait.core_models.keypoint_diffusion.schedule import (
        alphas_cumprod,
        ddim_step,
        sampling_timesteps,
        split_prediction,
    )

    signal = alphas_cumprod("linear").to(window.noise.device)
    timesteps = sampling_timesteps(steps)
    x = window.noise
    context = torch.cat([window.features.new_zeros(1, 2, 512), window.features], dim=1)
    for step, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        moment = torch.tensor([step], device=x.device)
        prediction = denoiser(torch.cat([window.prefix, x], dim=1), moment, context)[:, 2:]
        x0, epsilon = split_prediction(prediction, x, signal[step], "epsilon")
        x = x0 if following is None else ddim_step(x0, epsilon, signal[following])
    return x


def our_sampling(denoiser, window: Window, steps: int, variations: int, compiled: bool) -> Callable:
    """Return a function that samples `variations` windows at once, (V, 64, 70), as the sampler does it."""
    from talking_portrait.core_models.keypoint_diffusion.ddim import sample_window
    from talking_portrait.core_models.keypoint_diffusion.prepared_denoiser import PreparedDenoiser
    from talking_portrait.core_models.keypoint_diffusion.schedule import alphas_cumprod, sampling_timesteps

    timesteps = sampling_timesteps(steps)
    signal = alphas_cumprod("linear").to(window.noise.device)
    prepared = PreparedDenoiser(denoiser, timesteps, compiled)
    prefix, features, noise = (
        part.expand(variations, -1, -1) for part in (window.prefix, window.features, window.noise)
    )

    def run() -> torch.Tensor:
        ready = prepared.window(prefix, features)
        return sample_window(prepared, ready, noise, timesteps, signal, "epsilon")

    return run


@dataclass(frozen=True)
class Form:
    """A way to sample: its function, windows per call, and frames that a window adds to a clip."""

    run: Callable[[], torch.Tensor]
    windows: int
    frames: int


def forms(denoiser: torch.nn.Module, window: Window, steps: int, with_compiled: bool) -> dict[str, Form]:
    """Return what is compared at a number of steps, by name."""
    from talking_portrait.core_models.keypoint_diffusion.kdtalker_sampler import OVERLAP_FRAMES

    added = 64 - OVERLAP_FRAMES
    device = window.noise.device
    halves = ["bfloat16", *(["float16"] if device.type != "cpu" else [])]
    result = {
        "plain": Form(lambda: plain_sampling(denoiser, window, steps), 1, 64),
        "ours float32": Form(our_sampling(denoiser, window, steps, 1, False), 1, added),
        f"ours float32, {VARIATIONS} variations": Form(
            our_sampling(denoiser, window, steps, VARIATIONS, False), VARIATIONS, added
        ),
    }
    for name in halves:
        half = copy.deepcopy(denoiser).to(getattr(torch, name))
        result[f"ours {name}"] = Form(our_sampling(half, window, steps, 1, False), 1, added)
    if with_compiled:
        result["ours float32 compiled"] = Form(our_sampling(denoiser, window, steps, 1, True), 1, added)
    return result


@torch.inference_mode()
def compare(denoiser: torch.nn.Module, arguments: argparse.Namespace) -> None:
    """Measure and print all."""
    device, write = arguments.device, sys.stdout.write
    top = peak(torch.float32, device)
    write(f"matrix product: {top / 1e9:.0f} GFLOP/s in float32\n")
    window = made_window(device)
    count = operations(lambda: plain_sampling(denoiser, window, 1))
    write(f"plain network: {count / 1e9:.2f} GFLOP a step for a window of 64 frames\n")
    per_second: dict[tuple[str, int], list[float]] = {}
    for steps in STEP_COUNTS:
        compared = forms(denoiser, window, steps, arguments.compile)
        times = take_turns({name: form.run for name, form in compared.items()}, arguments.rounds, device)
        expected = compared["plain"].run()
        for name, form in compared.items():
            step = statistics.median(times[name]) / steps / form.windows
            per_second[name, steps] = [time / form.windows / (form.frames / 25) for time in times[name]]
            error = (form.run()[:1] - expected).norm() / expected.norm()
            write(
                f"{steps} steps, {name}: {1000 * step:.1f} ms a step ({100 * count / step / top:.0f} % of the peak), "
                f"{statistics.median(per_second[name, steps]):.3f} s a second of speech, relative error {error:.1e}\n"
            )
    write_ratios(per_second)


def write_ratios(per_second: dict[tuple[str, int], list[float]]) -> None:
    """Print how much less ours takes for a second of speech: against plain at 50 steps, and at equal steps."""
    from talking_portrait.core_models.keypoint_diffusion.kdtalker_sampler import OVERLAP_FRAMES

    few, many = STEP_COUNTS
    for name in sorted({name for name, _ in per_second} - {"plain"}):
        for own, other, target in (
            (few, many, SMALLEST_FACTOR_ALL),
            (few, few, SMALLEST_FACTOR_STEP),
            (many, many, SMALLEST_FACTOR_STEP),
        ):
            ratio = statistics.median(per_second["plain", other]) / statistics.median(per_second[name, own])
            sys.stdout.write(
                f"{name} at {own} steps against plain at {other}: {ratio:.2f} times less (target {target:g}), "
                f"{ratio * 64 / (64 - OVERLAP_FRAMES):.2f} without overlap\n"
            )


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="the published KDTalker.pth")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    sys.stdout.write(
        f"{arguments.device}, {arguments.threads} threads, load average {load:.1f}, torch {torch.__version__}\n"
    )
    compare(published_denoiser(arguments.weights).to(arguments.device), arguments)


if __name__ == "__main__":
    main()
