"""FantasyTalking's files: the three layouts of its audio weights on Wan, and our own single file."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.video_diffusion.actalker.portrait_encoder import PortraitEncoderParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.loading import (
    exported_tensors,
    fantasytalking_parameters,
    load_fantasytalking,
    load_fantasytalking_file,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.parameters import (
    PUBLISHED_FANTASYTALKING,
    FantasyTalkingParameters,
)
from talking_portrait.core_models.video_diffusion.wan.float8_linear import Float8Linear, store_in_float8
from talking_portrait.core_models.video_diffusion.wan.transformer import kept_in_float32

from .fantasytalking_models import RELEASE_LIKE, SMALL_MODEL, new_inputs, new_model


def published_names(model):
    """The audio weights by their published names: (projection, attention)."""
    projection = model.audio_projection.state_dict()
    attention = {
        f"blocks.{number}.cross_attn.processor.{name}": value
        for number, block in enumerate(model.transformer.blocks)
        for name, value in block.attn2.processor.state_dict().items()
    }
    return projection, attention


def as_ckpt(folder, projection, attention):
    path = folder / "fantasytalking_model.ckpt"
    torch.save({"proj_model": projection, "audio_processor": attention}, path)
    return path


def as_safetensors(folder, projection, attention):
    path = folder / "fantasytalking_model.safetensors"
    save_file(
        {f"proj_model.{name}": value for name, value in projection.items()}
        | {f"audio_processor.{name}": value for name, value in attention.items()},
        path,
    )
    return path


def as_kijai(folder, projection, attention):
    path = folder / "fantasytalking_fp16.safetensors"
    save_file(
        {f"proj_model.{name}": value for name, value in projection.items()}
        | {name.replace("processor.", ""): value.half() for name, value in attention.items()},
        path,
        {"format": "pt"},
    )
    return path


def wan_file(folder, model):
    path = folder / "wan.safetensors"
    state = model.transformer.state_dict()
    save_file({name: value for name, value in state.items() if ".processor." not in name}, path)
    return path


@pytest.fixture(scope="module")
def model():
    return new_model(RELEASE_LIKE)


@pytest.mark.parametrize("written", [as_ckpt, as_safetensors, as_kijai])
def test_three_layouts_are_one_model(tmp_path, model, written):
    path = written(tmp_path, *published_names(model))
    found = load_fantasytalking(wan_file(tmp_path, model), path, torch.float32, RELEASE_LIKE)
    assert found.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        wanted = value.half().float() if written is as_kijai and ".processor." in name else value
        assert torch.equal(found.state_dict()[name], wanted), name
    assert not found.training
    assert not any(value.requires_grad for value in found.parameters())
    if written is not as_kijai:
        latents, timesteps, conditions = new_inputs(RELEASE_LIKE)
        assert torch.equal(found(latents, timesteps, conditions), model(latents, timesteps, conditions))


def test_half_precision_is_of_the_blocks_only(tmp_path, model):
    path = as_kijai(tmp_path, *published_names(model))
    found = load_fantasytalking(wan_file(tmp_path, model), path, torch.bfloat16, RELEASE_LIKE)
    assert found.computing_dtype == torch.bfloat16
    for name, value in found.state_dict().items():
        inner = name.removeprefix("transformer.")
        kept = inner == name or kept_in_float32(inner)
        assert value.dtype == (torch.float32 if kept else torch.bfloat16), name
    latents, timesteps, conditions = new_inputs(RELEASE_LIKE)
    wanted = model(latents, timesteps, conditions)
    torch.testing.assert_close(found(latents, timesteps, conditions), wanted, atol=0.1, rtol=0.05)


def test_8_bits_stay_under_the_audio_attention(tmp_path, model):
    path = tmp_path / "wan.safetensors"
    state = load_file(wan_file(tmp_path, model))
    save_file(
        {
            k: v.to(torch.float8_e4m3fn) if v.ndim == 2 and k.startswith("blocks") else v
            for k, v in state.items()
        },
        path,
    )
    audio = as_ckpt(tmp_path, *published_names(model))
    found = load_fantasytalking(path, audio, torch.bfloat16, RELEASE_LIKE)
    assert isinstance(found.transformer.blocks[0].attn2.to_q, Float8Linear)
    assert found.transformer.blocks[0].attn2.processor.k_proj.weight.dtype == torch.bfloat16
    assert found.computing_dtype == torch.bfloat16
    latents, timesteps, conditions = new_inputs(RELEASE_LIKE)
    assert torch.isfinite(found(latents, timesteps, conditions)).all()


@pytest.mark.parametrize("written", [as_ckpt, as_safetensors, as_kijai])
def test_every_fault_of_the_audio_weights_is_named(tmp_path, model, written):
    projection, attention = (dict(part) for part in published_names(model))
    attention.pop("blocks.1.cross_attn.processor.v_proj.weight")
    attention["blocks.2.cross_attn.processor.k_proj.weight"] = torch.zeros(24, 9)
    projection["norm.bias"] = torch.zeros(4)
    path = written(tmp_path, projection, attention)
    with pytest.raises(WeightMismatchError) as error:
        load_fantasytalking(tmp_path / "absent", path, torch.float32, RELEASE_LIKE)
    for name in (
        "blocks.1.attn2.processor.v_proj.weight",
        "blocks.2.attn2.processor.k_proj.weight",
        "audio_projection.norm.bias is (4,)",
    ):
        assert name in str(error.value)


def test_wan_in_the_place_of_the_audio_weights_is_refused(tmp_path, model):
    path = wan_file(tmp_path, model)
    with pytest.raises(WeightMismatchError, match="Missing"):
        load_fantasytalking(path, path, torch.float32, RELEASE_LIKE)


def test_published_files_have_no_branches(tmp_path):
    with pytest.raises(ValueError, match="hold no identity branch"):
        load_fantasytalking(tmp_path, tmp_path, parameters=SMALL_MODEL)


WITH_ENCODER = replace(SMALL_MODEL, portrait_encoder=PortraitEncoderParameters((4, 8), 5))


@pytest.mark.parametrize("parameters", [SMALL_MODEL, RELEASE_LIKE, WITH_ENCODER])
@pytest.mark.parametrize("half", [False, True])
def test_a_model_comes_back_as_it_was_written(tmp_path, parameters, half):
    model = new_model(parameters)
    tensors, metadata = exported_tensors(model, half)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    assert fantasytalking_parameters(tmp_path / "a.safetensors") == parameters
    found = load_fantasytalking_file(tmp_path / "a.safetensors")
    assert found.parameters_used == parameters
    assert not found.training
    for name, value in model.state_dict().items():
        inner = name.removeprefix("transformer.")
        wanted = value.half().float() if half and inner != name and not kept_in_float32(inner) else value
        assert torch.equal(found.state_dict()[name], wanted), name
    given = new_inputs(parameters)
    if not half:
        assert torch.equal(found(*given), model(*given))


def test_parameters_survive_json():
    for parameters in (SMALL_MODEL, PUBLISHED_FANTASYTALKING, WITH_ENCODER):
        text = json.dumps(parameters.to_dict())
        assert FantasyTalkingParameters.from_dict(json.loads(text)) == parameters


def test_every_fault_of_our_file_is_named(tmp_path):
    tensors, metadata = exported_tensors(new_model())
    tensors.pop("identity.queries")
    tensors["strange"] = torch.zeros(1)
    tensors["transformer.proj_out.bias"] = torch.zeros(7)
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(WeightMismatchError) as error:
        load_fantasytalking_file(tmp_path / "a.safetensors")
    assert all(
        name in str(error.value) for name in ("identity.queries", "strange", "transformer.proj_out.bias")
    )


@pytest.mark.parametrize("entry", [None, "nonsense", "[]", "{}"])
def test_a_file_of_another_kind_is_refused(tmp_path, entry):
    metadata = {} if entry is None else {"fantasytalking": entry}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UnreadableWeightsError, match=r"not a FantasyTalking model|cannot be read"):
        load_fantasytalking_file(tmp_path / "a.safetensors")


def test_a_file_whose_sizes_make_no_sense_is_refused(tmp_path):
    tensors, metadata = exported_tensors(new_model())
    metadata["fantasytalking"] = metadata["fantasytalking"].replace('"num_layers": 2', '"num_layers": 0')
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    with pytest.raises(UnreadableWeightsError, match="num_layers is 0"):
        load_fantasytalking_file(tmp_path / "a.safetensors")


def test_weights_in_8_bits_are_not_exported():
    model = new_model()
    store_in_float8(model.transformer.blocks, torch.float32)
    with pytest.raises(ValueError, match="8 bits are not exported"):
        exported_tensors(model)
