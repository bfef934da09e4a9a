"""How FantasyTalking's golden cases of Wan's own networks are read."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

OURS = Path(__file__).resolve().parent.parent / "golden"


def weight_tools(golden_folder):
    """The module that fills networks: the one beside the cases, or ours where they came without."""
    path = golden_folder / "deterministic_weights.py"
    path = path if path.is_file() else OURS / path.name
    spec = importlib.util.spec_from_file_location("deterministic_weights_of_wan", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_case(golden_folder, name):
    """Return the case, its arrays, and its inputs by name; skips where cases elsewhere lack it."""
    path = golden_folder / "fantasytalking" / f"{name}.json"
    if not path.is_file() and golden_folder != OURS:
        pytest.skip(f"no {name}.json in {path.parent}")
    case = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    tools = weight_tools(golden_folder)
    return case, arrays, {key: made_input(tools, call) for key, call in case["inputs"].items()}


def made_input(tools, call):
    """An input from its call as the case writes it: "input_for('name', (1, 3), -1, 1)"."""
    name, shape, limits = re.fullmatch(r"input_for\('(\w+)', \(([\d, ]+)\)((?:, -?[\d.]+)*)\)", call).groups()
    low_high = [float(value) for value in limits.split(",")[1:]]
    return tools.input_for(name, tuple(int(size) for size in shape.split(",") if size.strip()), *low_high)


def assert_agrees(case, arrays, name, value, tolerance):
    """An output in shape and in its sampled values."""
    expected = case["outputs"][name]
    assert list(value.shape) == expected["shape"], name
    sampled = value.detach().float()[tuple(slice(None, None, step) for step in expected["stride"])]
    assert np.abs(sampled.numpy() - arrays[name]).max() <= tolerance, name
    assert torch.isfinite(value).all()
