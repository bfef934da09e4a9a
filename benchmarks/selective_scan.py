"""How fast the selective scan is, and how exact: its back ends against the plain recurrence, in one run.

    python benchmarks/selective_scan.py [--device cpu] [--rounds 3] [--threads 1]

Plain is what the public reference does without its kernel: decays and inputs of all tokens at once, (batch, D, L, N)
each, then a loop with a product a token (over views made at once: indexing token by token would make its backward
quadratic in L). Forms take turns, so that what else the machine does meets all of them; on a CPU the time is that of
CPU, which other work hardly disturbs; the least of the rounds counts. Errors are the largest absolute ones against the
plain recurrence in float64. Training shapes are those of small networks: forward, and forward with backward.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from mesh_renderer import load_package

SCANS = ((1, 1280, 1024), (1, 1280, 4096))
TRAINING = ((24, 128, 289), (24, 256, 97), (24, 256, 49))
STATES, GROUPS = 16, 2
SMALLEST_FACTOR, LARGEST_ERROR = 10.0, 1e-5

Scan = Callable[..., torch.Tensor]


def made_arguments(shape: tuple[int, int, int], device: str) -> tuple[torch.Tensor, ...]:
    """Return u, delta, A, B, C, D and delta_bias of the size that trained layers have."""
    batch, channels, length = shape
    random = torch.Generator().manual_seed(0)
    weights = (batch, GROUPS, STATES, length)
    u, delta, noise, B, C, D, bias = (
        torch.randn(size, generator=random)
        for size in (shape, shape, (channels, STATES), weights, weights, (channels,), (channels,))
    )
    A = -torch.exp(torch.arange(1.0, STATES + 1).log() + 0.1 * noise)
    return tuple(tensor.to(device) for tensor in (u, delta, A, B, C, 1 + 0.1 * D, -3 + 0.5 * bias))


def plain_scan(u, delta, A, B, C, D, delta_bias) -> torch.Tensor:
    """Return the outputs by the recurrence as it is written down."""
    step = torch.nn.functional.softplus(delta + delta_bias[:, None])
    B, C = (weights.repeat_interleave(u.shape[1] // GROUPS, dim=1) for weights in (B, C))
    decays = torch.exp(torch.einsum("bdl,dn->bdln", step, A))
    entering = torch.einsum("bdl,bdnl,bdl->bdln", step, B, u)
    state = torch.zeros_like(entering[:, :, 0])
    outputs = []
    for decay, entered, leaving in zip(decays.unbind(2), entering.unbind(2), C.unbind(3), strict=True):
        state = decay * state + entered
        outputs.append(torch.einsum("bdn,bdn->bd", state, leaving))
    return torch.stack(outputs, dim=2) + u * D[:, None]


def our_scan(backend: str) -> Scan:
    """Return a back end as a function of the arguments that gives the outputs."""
    from talking_portrait.core_models.ssm.selective_scan import selective_scan

    return lambda *arguments: selective_scan(*arguments, delta_softplus=True, backend=backend)[0]


def forms(device: str) -> dict[str, Scan]:
    """Return what is compared on a device, by name."""
    from talking_portrait.core_models.ssm.scan_kernel import kernel_function

    backends = ["in_place", "chunked"] if device == "cpu" else ["chunked"]
    if device != "cpu" and kernel_function() is not None:
        backends.append("kernel")
    return {"plain": plain_scan, **{backend: our_scan(backend) for backend in backends}}


def seconds(run: Callable[[], object], device: str) -> float:
    """Return the time of one call: of the CPU on a CPU, else by the clock until the device is done."""
    if device == "cpu":
        begin = time.process_time()
        run()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def least_seconds(runs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Return the least time of every run, each run once a round, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            spent = seconds(run, device)
            if index:
                times[name].append(spent)
    return {name: min(spent) for name, spent in times.items()}


@torch.inference_mode()
def compare_scans(device: str, rounds: int) -> None:
    """Print time, ratio and error of every form at the sizes of the published network."""
    compared = forms(device)
    for shape in SCANS:
        arguments = made_arguments(shape, device)
        exact = plain_scan(*(tensor.double() for tensor in arguments))
        runs = {name: partial(scan, *arguments) for name, scan in compared.items()}
        times = least_seconds(runs, rounds, device)
        for name, run in runs.items():
            error = (run() - exact).abs().max().item()
            sys.stdout.write(
                f"{shape}, {name}: {times[name]:.4f} s, {times['plain'] / times[name]:.1f} times plain, "
                f"largest error {error:.1e}\n"
            )
    sys.stdout.write(f"targets on a CPU: {SMALLEST_FACTOR:g} times plain, error {LARGEST_ERROR:g}\n")


def gradients(scan: Scan, arguments: tuple[torch.Tensor, ...], ascent: torch.Tensor) -> tuple:
    """Return the gradients of all arguments for a gradient of the outputs."""
    return torch.autograd.grad(scan(*arguments), arguments, ascent)


def compare_training(device: str, rounds: int) -> None:
    """Print the time forward, and forward with backward, of every form at the sizes of small networks."""
    for shape in TRAINING:
        arguments = tuple(tensor.requires_grad_() for tensor in made_arguments(shape, device))
        ascent = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
        compared = forms(device)
        both = least_seconds(
            {name: partial(gradients, scan, arguments, ascent) for name, scan in compared.items()},
            rounds,
            device,
        )
        with torch.no_grad():
            runs = {name: partial(scan, *arguments) for name, scan in compared.items()}
            forward = least_seconds(runs, rounds, device)
        for name in compared:
            sys.stdout.write(
                f"{shape}, {name}: forward {forward[name]:.4f} s, with backward {both[name]:.4f} s, "
                f"{forward['plain'] / forward[name]:.1f} and {both['plain'] / both[name]:.1f} times plain\n"
            )


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    load_package()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    sys.stdout.write(
        f"{arguments.device}, {arguments.threads} threads, load average {load:.1f}, torch {torch.__version__}\n"
    )
    compare_scans(arguments.device, arguments.rounds)
    compare_training(arguments.device, arguments.rounds)


if __name__ == "__main__":
    main()
