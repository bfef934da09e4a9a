"""FantasyTalking's attention and its whole network against numbers of the released code; its keys and sizes."""

import json
import re

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttention
from talking_portrait.core_models.key_tables import KEY_TABLES
from talking_portrait.core_models.strict_loading import map_keys, require_matching_keys
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_attention import (
    ControlledCrossAttention,
    Controls,
    SharedControls,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjection,
    AudioProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_windows import audio_windows
from talking_portrait.core_models.video_diffusion.fantasytalking.model import (
    DenoiserConditions,
    FantasyTalkingModel,
    FantasyTalkingParameters,
)
from talking_portrait.core_models.video_diffusion.wan.loading import WAN_ORIGINAL, in_diffusers_names
from talking_portrait.core_models.video_diffusion.wan.transformer import WanParameters

from .wan_golden import OURS, assert_agrees, weight_tools

ATTENTION_TOLERANCE = 1e-5
TOLERANCE = 1e-4
AUDIO_WIDTH = 96


def case_and_arrays(golden_folder, name):
    path = golden_folder / "fantasytalking" / f"{name}.json"
    if not path.is_file() and golden_folder != OURS:
        pytest.skip(f"no {name}.json in {path.parent}")
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.read_text()), {key: arrays[key] for key in arrays.files}


def made(tools, call):
    """The inputs that a case's text calls for, in order."""
    found = re.findall(r"input_for\('(\w+)', \(([\d, ]+)\)\)", str(call))
    return [tools.input_for(name, tuple(map(int, re.findall(r"\d+", shape)))) for name, shape in found]


def filled_state(tools, case, prefix=""):
    """The case's state by diffusers' names; prefix: what stands before them in a whole network."""
    state = {
        prefix + name: torch.from_numpy(tools.tensor_for(name, tuple(shape), case["gain"]))
        for name, shape in case["state_dict"].items()
    }
    return map_keys(state, WAN_ORIGINAL, "case")


@pytest.fixture(scope="module")
def attention_case(golden_folder):
    case, arrays = case_and_arrays(golden_folder, "cross_attention_processor")
    tools = weight_tools(golden_folder)
    x, context, audio, clip = (
        made(tools, case["inputs"][name])[0] for name in ("x", "context", "audio_proj", "clip_audio_proj")
    )
    lengths, clip_lengths = (
        torch.tensor(case["inputs"][name]) for name in ("audio_context_lens", "clip_lens")
    )
    for frame, length in enumerate(lengths.tolist()):
        audio[0, frame, length:] = 0
    clip[0, int(clip_lengths) :] = 0
    sounds = {"frame": (audio, lengths[None]), "clip": (clip, clip_lengths)}
    state = filled_state(tools, case, "blocks.0.")
    state = {name.removeprefix("blocks.0.attn2."): value for name, value in state.items()}
    attention = WanAttention(128, 4, 32, 1e-6, added_kv_proj_dim=128, cross_attention_dim_head=32)
    attention.set_processor(ControlledCrossAttention(128, AUDIO_WIDTH, SharedControls()))
    attention.load_state_dict(state)
    return case, arrays, attention.eval().requires_grad_(False), x, context, sounds


def test_the_cross_attention_is_the_releases(attention_case):
    case, arrays, attention, x, context, sounds = attention_case
    pattern = r"(frame|clip)_(masked|unmasked)_scale([\d.]+)"
    for name in case["outputs"]:
        level, masked, scale = re.fullmatch(pattern, name).groups()
        audio, lengths = sounds[level]
        controls = Controls(
            picture_tokens=257,
            audio=audio,
            audio_lengths=lengths if masked == "masked" else None,
            audio_scale=torch.tensor([float(scale)]),
        )
        with attention.processor.shared.holding(controls):
            found = attention(x, context, None, None)
        assert_agrees(case, arrays, name, found, ATTENTION_TOLERANCE)


def test_without_controls_the_last_512_tokens_are_text(attention_case):
    case, arrays, attention, x, context, _ = attention_case
    found = attention(x, context, None, None)
    assert_agrees(case, arrays, "frame_masked_scale0.0", found, ATTENTION_TOLERANCE)


@pytest.fixture(scope="module")
def network_case(golden_folder):
    case, arrays = case_and_arrays(golden_folder, "dit")
    tools, config = weight_tools(golden_folder), case["config"]
    parameters = FantasyTalkingParameters(
        WanParameters(
            num_attention_heads=config["num_heads"],
            attention_head_dim=config["dim"] // config["num_heads"],
            in_channels=config["in_dim"],
            out_channels=config["out_dim"],
            text_dim=config["text_dim"],
            freq_dim=config["freq_dim"],
            ffn_dim=config["ffn_dim"],
            num_layers=config["num_layers"],
            patch_size=tuple(config["patch_size"]),
            text_length=config["text_len"],
            eps=config["eps"],
            cross_attn_norm=config["cross_attn_norm"],
        ),
        AudioProjectionParameters(48, AUDIO_WIDTH),
    )
    model = FantasyTalkingModel(parameters).eval().requires_grad_(False)
    model.transformer.load_state_dict(filled_state(tools, case))
    inputs = case["inputs"]
    latents, image, picture, text, features = (
        made(tools, inputs[name])[0] for name in ("x", "y", "clip_fea", "context", "audio_features")
    )
    projection = tools.fill(AudioProjection(AudioProjectionParameters(48, AUDIO_WIDTH)), case["gain"])
    tokens = projection(features[0][:, None]).detach()
    windows, lengths = audio_windows(tokens, 4 * (inputs["latents_num_frames"] - 1) + 1)
    assert lengths.tolist() == inputs["audio_context_lens"]
    conditions = DenoiserConditions(image, text[None], picture, windows[None], lengths[None])
    return case, arrays, model, latents, conditions


def conditions_of_output(name, conditions):
    """The conditions that the name of an output tells, and its timestep."""
    no_audio, masked, scale, timestep = re.fullmatch(
        r"(?:(no_audio)|audio_(masked|unmasked)_s([\d.]+))_t([\d.]+)", name
    ).groups()
    given = vars(conditions).copy()
    if no_audio:
        given |= {"audio": None, "audio_lengths": None}
    else:
        given["audio_scale"] = torch.tensor([float(scale)])
        given["audio_lengths"] = conditions.audio_lengths if masked == "masked" else None
    return DenoiserConditions(**given), torch.tensor([float(timestep)])


def test_the_whole_network_is_the_releases(network_case):
    case, arrays, model, latents, conditions = network_case
    for name in case["outputs"]:
        given, timestep = conditions_of_output(name, conditions)
        assert_agrees(case, arrays, name, model(latents, timestep, given), TOLERANCE)


def test_streams_in_one_batch_are_the_releases_too(network_case):
    case, arrays, model, latents, conditions = network_case
    names = [name for name in case["outputs"] if name.startswith("audio_masked_s")]
    timesteps = torch.cat([conditions_of_output(name, conditions)[1] for name in names])
    scales = torch.cat([conditions_of_output(name, conditions)[0].audio_scale for name in names])

    def repeated(value):
        return value.expand(len(names), *value.shape[1:])

    given = {k: repeated(v) for k, v in vars(conditions).items() if isinstance(v, torch.Tensor)}
    found = model(repeated(latents), timesteps, DenoiserConditions(**given | {"audio_scale": scales}))
    for row, name in enumerate(names):
        assert_agrees(case, arrays, name, found[row : row + 1], TOLERANCE)


def listed(golden_folder, name):
    path = golden_folder / "fantasytalking" / f"state_dict_{name}.json"
    if not path.is_file() and golden_folder != OURS:
        pytest.skip(f"no {path.name} in {path.parent}")
    return {key: torch.empty(shape, device="meta") for key, shape in json.loads(path.read_text()).items()}


def test_published_keys_and_sizes_are_those_of_the_model(golden_folder):
    wan, audio, projection = (
        listed(golden_folder, name) for name in ("wan21_i2v_14b", "audio_processor", "proj_model")
    )
    assert (len(wan), len(audio), len(projection)) == (1303, 80, 3)
    with torch.device("meta"):
        model = FantasyTalkingModel()
    require_matching_keys(
        model.transformer.state_dict(), in_diffusers_names(wan | audio, "published"), "published"
    )
    named = {f"proj_model.{name}": value for name, value in projection.items()}
    assert set(map_keys(named, KEY_TABLES["fantasytalking_ckpt"], "published")) == set(named)
    require_matching_keys(model.audio_projection.state_dict(), projection, "published")
    assert len(model.state_dict()) == 1303 + 80 + 3


def test_every_original_key_maps_as_diffusers_maps_it(golden_folder):
    path = golden_folder / "fantasytalking" / "key_mapping_tiny.json"
    if not path.is_file() and golden_folder != OURS:
        pytest.skip(f"no {path.name} in {path.parent}")
    mapping = json.loads(path.read_text())["mapping"]
    tagged = {name: torch.tensor(number) for number, name in enumerate(mapping)}
    found = in_diffusers_names(tagged, "tiny")
    assert {new: int(found[new]) for new in mapping.values()} == {
        new: number for number, new in enumerate(mapping.values())
    }
    assert len(found) == len(mapping)
