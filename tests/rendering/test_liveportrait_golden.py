"""LivePortrait's networks against numbers of the released code, at the published sizes.

Every case file of a network's name is run: weights and inputs are made from it and the published key lists alone.
"""

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_portrait.core_models.motion.motion_extractor import MotionExtractor
from talking_portrait.core_models.rendering.liveportrait.appearance import AppearanceFeatureExtractor
from talking_portrait.core_models.rendering.liveportrait.generator import (
    SpadeBlock,
    SpadeGenerator,
    fold_spectral_norm,
)
from talking_portrait.core_models.rendering.liveportrait.retargeting import (
    RetargetingNetwork,
    RetargetingParameters,
)
from talking_portrait.core_models.rendering.liveportrait.warping import WarpingModule

RELATIVE_TOLERANCE = 1e-4
SYSTEM = "liveportrait_kdtalker"
GOLDEN = Path(os.environ.get("TALKING_PORTRAIT_GOLDEN", Path(__file__).resolve().parent.parent / "golden"))


def cases(pattern):
    """Names of the case files that fit; collected before fixtures exist, hence not from `golden_folder`."""
    found = sorted(path.stem for path in (GOLDEN / SYSTEM).glob(f"{pattern}.json"))
    missing = pytest.param(pattern, marks=pytest.mark.skip(reason=f"no {pattern}.json in {GOLDEN / SYSTEM}"))
    return found or [missing]


@pytest.fixture(scope="module")
def published_state(liveportrait_tools, liveportrait_cases):
    """Function of (key list's name, case): the state the case was made with; the last one is kept."""

    @functools.lru_cache(maxsize=1)
    def made(name, weights):
        weights = json.loads(weights)
        shapes = json.loads((liveportrait_cases / f"state_dict_{name}.json").read_text())
        return liveportrait_tools.state_dict_for(
            shapes, weights["gain"], weights["rules"], weights.get("name_prefix", "")
        )

    return lambda name, case: made(name, json.dumps(case["weights"]))


def read_case(liveportrait_cases, liveportrait_tools, name):
    """Return the case, its arrays and its inputs by argument."""
    case = json.loads((liveportrait_cases / f"{name}.json").read_text())
    with np.load(liveportrait_cases / f"{name}.npz") as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    return case, arrays, {spec["arg"]: liveportrait_tools.make_input(spec) for spec in case["inputs"]}


def loaded(build, state):
    with torch.device("meta"):
        module = build()
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def assert_agrees(liveportrait_tools, case, arrays, outputs):
    """Every output the case lists, in shape and in its sampled values."""
    for name, expected in case["outputs"].items():
        value = outputs[name]
        assert list(value.shape) == expected["shape"], name
        found = liveportrait_tools.sample(value.numpy(), expected["stride"])
        spread = expected["std"] or abs(expected["mean"])  # one number alone has no spread
        assert np.abs(found - arrays[name]).max() <= RELATIVE_TOLERANCE * spread, name


@pytest.mark.parametrize("name", cases("lp_appearance_feature_extractor*"))
def test_appearance_feature_extractor(name, liveportrait_cases, liveportrait_tools, published_state):
    case, arrays, inputs = read_case(liveportrait_cases, liveportrait_tools, name)
    network = loaded(AppearanceFeatureExtractor, published_state("appearance_feature_extractor", case))
    assert_agrees(liveportrait_tools, case, arrays, {"feature_3d": network(inputs["image"])})


@pytest.mark.parametrize("name", cases("lp_motion_extractor*"))
def test_motion_extractor(name, liveportrait_cases, liveportrait_tools, published_state):
    case, arrays, inputs = read_case(liveportrait_cases, liveportrait_tools, name)
    found = loaded(MotionExtractor, published_state("motion_extractor", case))(inputs["image"])
    renamed = {"t": found.translation, "exp": found.expression, "kp": found.keypoints}
    assert_agrees(liveportrait_tools, case, arrays, found._asdict() | renamed)


@pytest.mark.parametrize("name", cases("lp_warping_module*"))
def test_warping_module(name, liveportrait_cases, liveportrait_tools, published_state):
    case, arrays, inputs = read_case(liveportrait_cases, liveportrait_tools, name)
    source = inputs["kp_source"]
    driving = inputs["kp_driving"] if "kp_driving" in inputs else source + inputs["kp_delta"]
    network = loaded(WarpingModule, published_state("warping_module", case))
    assert_agrees(liveportrait_tools, case, arrays, network(inputs["feature_3d"], driving, source)._asdict())


@pytest.mark.parametrize("name", cases("lp_spade_generator*"))
def test_spade_generator(name, liveportrait_cases, liveportrait_tools, published_state):
    case, arrays, inputs = read_case(liveportrait_cases, liveportrait_tools, name)
    network = fold_spectral_norm(loaded(SpadeGenerator, published_state("spade_generator", case)))
    assert_agrees(liveportrait_tools, case, arrays, {"image": network(inputs["feature"])})


@pytest.mark.parametrize("name", cases("lp_stitching_retargeting_*"))
def test_stitching_and_retargeting(name, liveportrait_cases, liveportrait_tools, published_state):
    case, arrays, inputs = read_case(liveportrait_cases, liveportrait_tools, name)
    sizes = case["constructor"]
    parameters = RetargetingParameters(
        sizes["input_size"], tuple(sizes["hidden_sizes"]), sizes["output_size"]
    )
    keys = next(part for part in ("stitching", "eye", "lip") if part in name.split("_")[3:])
    network = loaded(lambda: RetargetingNetwork(parameters), published_state(f"stitching_{keys}", case))
    assert_agrees(liveportrait_tools, case, arrays, {"delta": network(inputs["x"])})


def test_folding_spectral_norm_changes_nothing(liveportrait_tools):
    with torch.device("meta"):
        shapes = liveportrait_tools.shapes_of(SpadeBlock(16, 8, 12))
    state = liveportrait_tools.state_dict_for(shapes, rules=("spectral_uv",))
    block, folded = (loaded(lambda: SpadeBlock(16, 8, 12), state) for _ in range(2))
    fold_spectral_norm(folded)
    x, feature = torch.randn(2, 16, 12, 10), torch.randn(2, 12, 6, 5)
    assert not [key for key in folded.state_dict() if "weight_" in key]
    assert torch.allclose(block(x, feature), folded(x, feature), atol=1e-6)
