"""The selective scan against numbers of the reference.

Every case file `scan_*` is run with every back end that a CPU can run; inputs are made from the case alone.
"""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_portrait.core_models.ssm.selective_scan import selective_scan

RELATIVE_TOLERANCE = 2e-5
HALF_TOLERANCE = 4e-3
OWN_GOLDEN = Path(__file__).resolve().parent.parent / "golden"
GOLDEN_ELSEWHERE = os.environ.get("TALKING_PORTRAIT_GOLDEN")
GOLDEN = Path(GOLDEN_ELSEWHERE or OWN_GOLDEN)


def cases(pattern="scan_*"):
    """Names of the case files; without any, the pattern: its test fails, or is skipped for cases elsewhere.

    Collected before fixtures exist, hence not from `golden_folder`.
    """
    folder = GOLDEN / "actalker"
    found = sorted(path.stem for path in folder.glob(f"{pattern}.json"))
    marks = pytest.mark.skip(reason=f"no {pattern}.json in {folder}") if GOLDEN_ELSEWHERE else ()
    return found or [pytest.param(pattern, marks=marks)]


@pytest.fixture(scope="module")
def input_for(golden_folder):
    """How inputs are made from names: the module of the cases, or ours where they came without."""
    path = golden_folder / "deterministic_weights.py"
    path = path if path.is_file() else OWN_GOLDEN / "deterministic_weights.py"
    spec = importlib.util.spec_from_file_location("deterministic_weights_of_scans", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.input_for


def made_input(input_for, spec):
    """input_for, times `mul`, plus `add`, as `dtype`."""
    value = input_for(*spec["input_for"]) * spec.get("mul", 1.0) + spec.get("add", 0.0)
    return value.to(getattr(torch, spec.get("dtype", "float32")))


def arguments_of(input_for, case):
    made = {name: made_input(input_for, spec) for name, spec in case["inputs"].items()}
    if "A_log" in made:
        log = made.pop("A_log")
        made["A"] = -torch.exp(torch.arange(1, log.shape[1] + 1, dtype=torch.float32).log()[None] + log)
    return made | {"delta_softplus": case["delta_softplus"]}


@pytest.mark.skipif(bool(GOLDEN_ELSEWHERE), reason="cases elsewhere may be fewer")
def test_a_case_that_is_missing_fails():
    (missing,) = cases("scan_of_another_release_*")
    assert not missing.marks


@pytest.mark.parametrize("backend", ["in_place", "chunked"])
@pytest.mark.parametrize("name", cases())
def test_numbers_of_the_reference(name, backend, golden_folder, input_for):
    folder = golden_folder / "actalker"
    case = json.loads((folder / f"{name}.json").read_text())
    arguments = arguments_of(input_for, case)
    out, last_state = selective_scan(**arguments, backend=backend)
    assert out.dtype == arguments["u"].dtype
    assert last_state.dtype == torch.float32
    with np.load(folder / f"{name}.npz") as arrays:
        for key, value in (("out", out), ("last_state", last_state)):
            expected = case["outputs"][key]
            assert list(value.shape) == expected["shape"], key
            found = value.float().contiguous().reshape(-1)[:: expected["stride"]].numpy()
            tolerance = RELATIVE_TOLERANCE * expected["absmax"]
            if "float16" in (spec.get("dtype") for spec in case["inputs"].values()):
                tolerance = HALF_TOLERANCE
            assert np.abs(found - arrays[key]).max() <= tolerance, key
