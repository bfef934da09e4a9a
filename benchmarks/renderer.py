"""How fast LivePortrait's renderer draws: the plain networks frame by frame against the fast form, in one run.

    python benchmarks/renderer.py [--weights FOLDER] [--device cpu] [--frames 3] [--batch 1] [--threads 2] [--compile]

FOLDER holds the four published base models (.pth or .safetensors). Without it the weights are the deterministic ones
of tests/golden; time does not depend on them, and no face is drawn then. Plain and fast form take turns, so that
what else the machine does meets both; times are medians. The share of the peak is the products that the published
networks take for a frame, over time, over the machine's measured matrix product: it may exceed 100 %, since the fast
form takes fewer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
NAMES = ("appearance_feature_extractor", "motion_extractor", "warping_module", "spade_generator")
PLAIN = "plain W+G"
RULES = {"motion_extractor": ("affine_nd",), "spade_generator": ("spectral_uv",)}


def published_networks(folder: Path) -> list[torch.nn.Module]:
    """Return the networks of NAMES with the weights of the files in a folder."""
    from talking_portrait.core_models.rendering.liveportrait import loading

    loaders = (
        loading.load_appearance_extractor,
        loading.load_motion_extractor,
        loading.load_warping_module,
        loading.load_generator,
    )
    networks = []
    for name, loader in zip(NAMES, loaders, strict=True):
        found = [path for suffix in (".safetensors", ".pth") for path in folder.rglob(name + suffix)]
        if not found:
            raise SystemExit(f"{folder} holds no {name}.safetensors or {name}.pth")
        networks.append(loader(found[0]))
    return networks


def deterministic_networks() -> list[torch.nn.Module]:
    """Return the networks of NAMES with the weights that the numeric references are made with."""
    from talking_portrait.core_models.motion.motion_extractor import MotionExtractor
    from talking_portrait.core_models.rendering.liveportrait.appearance import AppearanceFeatureExtractor
    from talking_portrait.core_models.rendering.liveportrait.generator import (
        SpadeGenerator,
        fold_spectral_norm,
    )
    from talking_portrait.core_models.rendering.liveportrait.warping import WarpingModule

    sys.path[:0] = [str(GOLDEN), str(GOLDEN / "liveportrait_kdtalker")]
    from golden_tools import state_dict_for

    networks = []
    classes = (AppearanceFeatureExtractor, MotionExtractor, WarpingModule, SpadeGenerator)
    for name, build in zip(NAMES, classes, strict=True):
        shapes = json.loads((GOLDEN / "liveportrait_kdtalker" / f"state_dict_{name}.json").read_text())
        with torch.device("meta"):
            network = build()
        network.load_state_dict(state_dict_for(shapes, rules=RULES.get(name, ())), assign=True)
        networks.append(network.eval().requires_grad_(False))
    return [*networks[:3], fold_spectral_norm(networks[3])]


def seconds(run, device: str) -> float:
    """Return how long a call takes, the device's work included."""
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(dtype: torch.dtype, device: str, size: int = 3072) -> float:
    """Return the most operations per second of a square matrix product, of seven tries."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    return 2 * size**3 / min(seconds(lambda: torch.mm(left, right), device) for _ in range(7))


def operations(run) -> int:
    """Return the floating point operations of a call, a product and its sum as two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def fast_forms(warping, generator, device: str, with_compiled: bool) -> dict:
    """Return the renderers to compare by name."""
    from talking_portrait.core_models.rendering.liveportrait.frame_generator import (
        FrameGenerator,
        default_method,
    )

    forms = {}
    for precision in ("float32", "bfloat16", *(["float16"] if device != "cpu" else [])):
        method = default_method(device, precision)
        forms[f"{precision} {method}"] = FrameGenerator(warping, generator, precision, method).to(device)
        if with_compiled:
            compiled = FrameGenerator(warping, generator, precision, "direct", compiled=True).to(device)
            forms[f"{precision} direct compiled"] = compiled
    return forms


def take_turns(runs: dict, rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of every run, each run once a round, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            spent = seconds(run, device)
            if index:
                times[name].append(spent)
    return times


def median_milliseconds(run, rounds: int, device: str) -> float:
    """Return the median time of a call, after one to warm up."""
    return 1000 * statistics.median(take_turns({"": run}, rounds, device)[""])


@dataclass(frozen=True)
class Scene:
    """What every form draws: a source's features and keypoints (1, 21, 3), and driving keypoints (B, 21, 3)."""

    feature_3d: torch.Tensor
    source: torch.Tensor
    driving: torch.Tensor


@torch.no_grad()
def made_scene(appearance, picture: torch.Tensor, batch: int) -> Scene:
    """Return a scene with random keypoints, the driving ones a little beside the source's."""
    random = torch.Generator().manual_seed(0)
    source = (torch.rand(1, 21, 3, generator=random) - 0.5).to(picture.device)
    driving = source + (0.08 * torch.randn(batch, 21, 3, generator=random)).to(picture.device)
    return Scene(appearance(picture), source, driving)


@torch.no_grad()
def compare(networks: list[torch.nn.Module], arguments: argparse.Namespace) -> None:
    """Measure and print all."""
    device, write = arguments.device, sys.stdout.write
    peaks = {dtype: peak(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    write("matrix product: " + ", ".join(f"{d} {p / 1e9:.0f} GFLOP/s" for d, p in peaks.items()) + "\n")
    appearance, motion, warping, generator = (network.to(device) for network in networks)
    picture = torch.rand(1, 3, 256, 256, device=device)
    scene = made_scene(appearance, picture, arguments.batch)
    for name, run in (("appearance", lambda: appearance(picture)), ("motion", lambda: motion(picture))):
        write(f"{name} extractor: {median_milliseconds(run, 5, device):.1f} ms a picture\n")
    first = warping(scene.feature_3d, scene.driving[:1], scene.source).out
    parts = {
        "plain W": lambda: warping(scene.feature_3d, scene.driving[:1], scene.source),
        "plain G": lambda: generator(first),
    }
    counts = {name: operations(run) for name, run in parts.items()}
    write(
        "".join(f"published {name[-1]}: {count / 1e9:.0f} GFLOP a frame\n" for name, count in counts.items())
    )
    forms = fast_forms(warping, generator, device, arguments.compile)
    prepared = {name: form.prepare(scene.feature_3d, scene.source) for name, form in forms.items()}
    runs = {PLAIN: lambda: plain_frames(warping, generator, scene)} | {
        name: lambda form=form, name=name: form.generate(prepared[name], scene.driving)
        for name, form in forms.items()
    }
    times = take_turns(parts | runs, arguments.frames, device)
    for name in parts:
        write(f"{name}: {1000 * statistics.median(times[name]):.0f} ms a frame\n")
    expected = runs[PLAIN]()
    for name, run in runs.items():
        write(f"{name}: {speed_line(times, name, arguments.batch, sum(counts.values()), peaks)}; ")
        write(f"{difference_line(run(), expected)}\n")
    for name, form in forms.items():
        wait = longest_wait(form, prepared[name], scene.driving, device)
        write(f"{name}: at most {1000 * wait:.0f} ms between two looks at Cancel\n")
    held = {"plain": [warping, generator]} | {name: [form] for name, form in forms.items()}
    write("".join(f"weights of {name}: {megabytes(modules):.0f} MB\n" for name, modules in held.items()))


def plain_frames(warping, generator, scene: Scene) -> torch.Tensor:
    """Return (B, 3, 512, 512) by the networks as published, frame by frame."""
    moved = (warping(scene.feature_3d, frame[None], scene.source).out for frame in scene.driving)
    return torch.cat([generator(out) for out in moved])


def speed_line(times: dict, name: str, batch: int, count: int, peaks: dict) -> str:
    """Say how fast a form is: a frame's time, against plain in the same round, and of the machine's peaks."""
    spent = statistics.median(times[name]) / batch
    ratios = [plain / own for plain, own in zip(times[PLAIN], times[name], strict=True)]
    shares = ", ".join(f"{100 * count / spent / peak:.0f} % of {dtype}'s" for dtype, peak in peaks.items())
    return (
        f"{1000 * spent:.0f} ms a frame, {statistics.median(ratios):.2f} times as fast as plain "
        f"({min(ratios):.2f} to {max(ratios):.2f}); {shares} peak"
    )


def difference_line(found: torch.Tensor, expected: torch.Tensor) -> str:
    """Say how far frames are from the plain networks'."""
    error = (found - expected).norm() / expected.norm()
    return f"largest difference {(found - expected).abs().max():.1e}, relative error {error:.1e}"


def longest_wait(form, prepared, driving: torch.Tensor, device: str) -> float:
    """Return the most seconds between two checks of a frame, of which each may cancel it."""
    moments = [time.perf_counter()]

    def check() -> None:
        if device != "cpu":
            torch.cuda.synchronize()
        moments.append(time.perf_counter())

    form.generate(prepared, driving[:1], check)
    check()
    return max(after - before for before, after in pairwise(moments))


def megabytes(modules: list[torch.nn.Module]) -> float:
    """Return the size of modules' weights, 10^6 bytes."""
    return sum(value.nbytes for module in modules for value in module.state_dict().values()) / 1e6


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="folder of the published base models")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--frames", type=int, default=3, help="rounds; each draws --batch frames with every form"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--compile", action="store_true", help="also the direct method with torch.compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    sys.stdout.write(
        f"{arguments.device}, {arguments.threads} threads, load average {load:.1f}, torch {torch.__version__}\n"
    )
    networks = published_networks(arguments.weights) if arguments.weights else deterministic_networks()
    compare(networks, arguments)


if __name__ == "__main__":
    main()
