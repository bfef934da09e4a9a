"""Peak memory of loading a weight file, beside its size.

`python benchmarks/loading_memory.py [--gigabytes 1]` loads each made file in a fresh process; the extra memory is
the peak of its resident set (Linux: VmHWM, which counts the mapped file too) over the size before loading.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

GIGABYTE = 1 << 30
WIDTH = 2048
CASES = {
    "safetensors, kept": ("float32", "float32"),
    "safetensors, float32 to bfloat16": ("float32", "bfloat16"),
    "safetensors, float16 kept": ("float16", "float16"),
    "safetensors, fp8 kept": ("float8_e4m3fn", "float8_e4m3fn"),
}


def _layers(count: int):
    """Return a chain of square linear layers of 16 MiB each in float32."""
    from torch import nn

    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(count)))


def _make(path: Path, size: int, dtype: str) -> int:
    """Write a file of about `size` bytes; return how many layers it has."""
    import torch
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    count = max(size // (WIDTH * WIDTH * kind.itemsize), 1)
    save_file({f"{i}.weight": torch.rand(WIDTH, WIDTH).to(kind) for i in range(count)}, path)
    return count


def _memory(field: str) -> int:
    """Bytes of this process's memory: field VmRSS, resident now with mapped files, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _measure(path: Path, count: int, dtype: str) -> int:
    """Load the file strictly and touch every page; return the peak of extra resident memory in bytes."""
    import torch
    from talking_portrait.core_models.strict_loading import load_strict

    load_strict(torch.nn.Identity, _empty(path))
    before = _memory("VmRSS")
    module = load_strict(lambda: _layers(count), path, dtype=getattr(torch, dtype))
    for value in module.parameters():
        value.view(torch.uint8)[..., ::4096].sum()
    return _memory("VmHWM") - before


def _empty(path: Path) -> Path:
    """A file without tensors, to load the libraries before measuring."""
    from safetensors.torch import save_file

    empty = path.with_name("empty.safetensors")
    save_file({}, empty)
    return empty


def main() -> int:
    """Run every case, or with --case one of them in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--case", nargs=3, metavar=("FILE", "LAYERS", "DTYPE"))
    options = parser.parse_args()
    if options.case:
        file, count, dtype = options.case
        sys.stdout.write(f"{_measure(Path(file), int(count), dtype)}\n")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for label, (stored, wanted) in CASES.items():
            path = Path(folder, "made.safetensors")
            count = _make(path, int(options.gigabytes * GIGABYTE), stored)
            command = [sys.executable, __file__, "--case", str(path), str(count), wanted]
            extra = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            size = path.stat().st_size
            sys.stdout.write(
                f"{label:34} {size / 1e9:.2f} GB, extra {extra / 1e9:.2f} GB: {extra / size:.2f}\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
