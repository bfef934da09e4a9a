"""How ACTalker's golden cases are read: weights and inputs from names and shapes, outputs by their samples."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
GOLDEN_ELSEWHERE = os.environ.get("TALKING_PORTRAIT_GOLDEN")
GOLDEN = Path(GOLDEN_ELSEWHERE or ROOT / "golden") / "actalker"
TOLERANCE = 2e-5
"""Of the largest output, for networks in float32."""


def weight_tools(name="deterministic_weights.py"):
    """The module that fills networks: the one beside the cases, or ours where they came without."""
    path = GOLDEN.parent / name
    path = path if path.is_file() else ROOT / "golden" / name
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_actalker", path)
    module = importlib.util.module_from_spec(spec)
    searched = [str(GOLDEN.parent), str(ROOT / "golden")]  # one of the modules imports the other
    sys.path[:0] = searched
    spec.loader.exec_module(module)
    del sys.path[: len(searched)]
    return module


def case_names(pattern):
    """Names of the case files that fit; without any, the pattern: its test fails, or is skipped for cases elsewhere."""
    found = sorted(path.stem for path in GOLDEN.glob(f"{pattern}.json"))
    marks = pytest.mark.skip(reason=f"no {pattern}.json in {GOLDEN}") if GOLDEN_ELSEWHERE else ()
    return found or [pytest.param(pattern, marks=marks)]


def read_case(name):
    """Return the case, its arrays, and its inputs by name."""
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    tools = weight_tools()
    return case, arrays, {key: made_input(tools, spec) for key, spec in case["inputs"].items()}


def made_input(tools, spec):
    """An input: values from a name, a constant, or a mask (1, 1, H, W); a list of such for a list."""
    if isinstance(spec, list):
        return [made_input(tools, one) for one in spec]
    if "const" in spec:
        made = torch.tensor(spec["const"])
    elif "mask" in spec or "ramp" in spec:
        made = made_mask(spec)
    else:
        made = tools.input_for(*(tuple(one) if isinstance(one, list) else one for one in spec["input_for"]))
    made = made * spec.get("mul", 1.0) + spec.get("add", 0.0)
    return made.to(getattr(torch, spec["dtype"])) if "dtype" in spec else made


def made_mask(spec):
    """A rectangle of one value on zeros, none of it where there is no rectangle; or a ramp to the right."""
    if "ramp" in spec:
        height, width = spec["ramp"]
        row = (1.5 * torch.arange(width) / (width - 1)).clamp(max=1)
        return row.expand(1, 1, height, width).clone()
    mask = torch.zeros(1, 1, *spec["mask"])
    if spec["rect"] is not None:
        top, bottom, left, right = spec["rect"]
        mask[..., top:bottom, left:right] = spec["value"]
    return mask


def filled(module, case, skip=()):
    """The module with the case's weights, in evaluation mode."""
    return weight_tools().fill(module, case.get("gain", 1.0), skip).eval().requires_grad_(False)


def filled_with_scans(module, gain):
    """The module with weights that suit its selective scans too, in evaluation mode."""
    tools = weight_tools("actalker/ssm_weights.py")
    return tools.ssm_fill(module, gain).eval().requires_grad_(False)


def assert_agrees(case, arrays, outputs, tolerance=TOLERANCE):
    """Every output the case lists, in shape and in its sampled values."""
    for name, expected in case["outputs"].items():
        value = outputs[name].detach().float().contiguous()
        assert list(value.shape) == expected["shape"], name
        found = value.reshape(-1)[:: expected["stride"]].numpy()
        assert np.abs(found - arrays[name]).max() <= tolerance * expected["absmax"], name
