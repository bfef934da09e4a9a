"""LivePortrait's files load strictly, as published and repacked; what does not fit is named."""

import json

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.rendering.liveportrait import loading, retargeting
from talking_portrait.core_models.rendering.liveportrait.appearance import (
    AppearanceFeatureExtractor,
    AppearanceParameters,
)
from talking_portrait.core_models.strict_loading import WeightMismatchError

PUBLISHED_NAMES = {"stitching": "retarget_shoulder", "lip": "retarget_mouth", "eye": "retarget_eye"}
BIG = {
    "appearance_feature_extractor": loading.load_appearance_extractor,
    "motion_extractor": loading.load_motion_extractor,
    "warping_module": loading.load_warping_module,
    "spade_generator": loading.load_generator,
}


def filled(shapes):
    """Return tensors of the shapes, made fast: constants that differ from key to key."""
    return {
        key: torch.full(shape, (1 + index % 7) / 100, dtype=torch.float32)
        if not key.endswith("num_batches_tracked")
        else torch.zeros(shape, dtype=torch.int64)
        for index, (key, shape) in enumerate(shapes.items())
    }


def published_shapes(golden_folder, name):
    path = golden_folder / "liveportrait_kdtalker" / f"state_dict_{name}.json"
    if not path.is_file():
        pytest.skip(f"the key list {path} is not here")
    return json.loads(path.read_text())


@pytest.fixture
def retargeting_states(golden_folder):
    return {
        name: filled(published_shapes(golden_folder, f"stitching_{name}"))
        for name in ("stitching", "lip", "eye")
    }


def nested(states):
    """The published pickle's form: three dictionaries, saved from a distributed module."""
    return {
        PUBLISHED_NAMES[name]: {f"module.{key}": value for key, value in state.items()}
        for name, state in states.items()
    }


def flat(states, prefix=""):
    """The safetensors form."""
    return {
        f"{PUBLISHED_NAMES[name]}.{prefix}{key}": value
        for name, state in states.items()
        for key, value in state.items()
    }


def assert_holds(networks, states):
    assert not networks.training
    for name, state in states.items():
        found = getattr(networks, name).state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], value) for key, value in state.items())
        assert not any(value.requires_grad for value in getattr(networks, name).parameters())


def test_retargeting_networks_of_the_published_pickle(retargeting_states, tmp_path):
    path = tmp_path / "stitching_retargeting_module.pth"
    torch.save(nested(retargeting_states), path)
    assert_holds(loading.load_retargeting_networks(path), retargeting_states)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_retargeting_networks_of_the_safetensors(prefix, retargeting_states, tmp_path):
    path = tmp_path / "stitching_retargeting_module.safetensors"
    save_file(flat(retargeting_states, prefix), path)
    assert_holds(loading.load_retargeting_networks(path), retargeting_states)


def test_every_key_that_does_not_fit_is_named(retargeting_states, tmp_path):
    state = flat(retargeting_states)
    del state["retarget_eye.mlp.0.bias"], state["retarget_mouth.mlp.6.weight"]
    state["retarget_eye.mlp.12.weight"] = torch.zeros(2)
    state["shoulder"] = torch.zeros(3)
    state["retarget_shoulder.mlp.0.weight"] = torch.zeros(128, 125)
    path = tmp_path / "stitching_retargeting_module.safetensors"
    save_file(state, path)
    with pytest.raises(WeightMismatchError) as caught:
        loading.load_retargeting_networks(path)
    message = str(caught.value)
    assert "Missing: ['eye.mlp.0.bias', 'lip.mlp.6.weight']" in message
    assert "Unexpected: ['eye.mlp.12.weight', 'shoulder']" in message
    assert "stitching.mlp.0.weight is (128, 125), expected (128, 126)" in message


@pytest.mark.parametrize("name", BIG)
def test_big_networks_name_every_key_that_does_not_fit(name, golden_folder, tmp_path):
    """A few keys of the file: the message must list all the others."""
    shapes = published_shapes(golden_folder, name)
    few = {key: shapes[key] for key in list(shapes)[1:3]}
    state = filled(few) | {"surplus.weight": torch.zeros(1)}
    first = next(iter(few))
    state[first] = torch.zeros(7, 7)
    path = tmp_path / f"{name}.safetensors"
    save_file(state, path)
    with pytest.raises(WeightMismatchError) as caught:
        BIG[name](path)
    message = str(caught.value)
    assert [key for key in shapes if key not in few and f"'{key}'" not in message] == []
    assert "Unexpected: ['surplus.weight']" in message
    assert f"{first} is (7, 7), expected {tuple(shapes[first])}" in message


@pytest.mark.parametrize("name", BIG)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_big_networks_load(name, suffix, golden_folder, tmp_path):
    state = filled(published_shapes(golden_folder, name))
    path = tmp_path / f"{name}{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    module = BIG[name](path)
    assert not module.training
    assert not any(value.is_meta for value in module.state_dict().values())
    plain = {key: value for key, value in module.state_dict().items() if key in state}
    assert all(torch.equal(value, state[key]) for key, value in plain.items())
    spectral = {key.removesuffix("_orig") for key in state if key.endswith("weight_orig")}
    assert module.state_dict().keys() - plain.keys() == spectral
    assert not [key for key in module.state_dict() if key.endswith(("_orig", "_u", "_v"))]


def test_spectral_norm_is_folded_by_the_stored_vectors(golden_folder, tmp_path):
    shapes = published_shapes(golden_folder, "spade_generator")
    state = filled(shapes)
    generator = torch.Generator().manual_seed(0)
    for part in ("weight_orig", "weight_u", "weight_v"):
        key = f"up_1.conv_1.{part}"
        state[key] = torch.randn(shapes[key], generator=generator)
    path = tmp_path / "spade_generator.safetensors"
    save_file(state, path)
    original, u, v = (state[f"up_1.conv_1.{part}"] for part in ("weight_orig", "weight_u", "weight_v"))
    sigma = torch.dot(u.double(), original.double().reshape(64, -1) @ v.double())
    found = loading.load_generator(path).up_1.conv_1.weight
    assert torch.allclose(found, (original / sigma).float(), rtol=1e-4)


def test_weights_come_in_another_dtype_when_asked(retargeting_states, tmp_path):
    path = tmp_path / "stitching_retargeting_module.safetensors"
    save_file({key: value.half() for key, value in flat(retargeting_states).items()}, path)
    assert next(loading.load_retargeting_networks(path).parameters()).dtype == torch.float32
    half = loading.load_retargeting_networks(path, torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}


def test_another_size_shows_as_misshapen():
    """The parameters reach the layers: sizes are not written twice."""
    with torch.device("meta"):
        small = AppearanceFeatureExtractor(AppearanceParameters(first_channels=8, volume_channels=4))
        network = retargeting.RetargetingNetwork(retargeting.RetargetingParameters(5, (4,), 3))
    assert small.state_dict()["second.weight"].shape == (64, 32, 1, 1)
    assert [tuple(value.shape) for value in network.state_dict().values()] == [(4, 5), (4,), (3, 4), (3,)]
