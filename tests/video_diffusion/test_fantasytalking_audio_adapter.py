"""The published audio weights on their own: three layouts of the same, and files that are something else."""

import pytest
import torch
from safetensors.torch import save_file
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_adapter import load_audio_adapter

BLOCKS, WIDTH, AUDIO_WIDTH, CHANNELS = 3, 8, 6, 5


def made_weights(blocks=BLOCKS):
    generator = torch.Generator().manual_seed(0)
    attention = {
        f"blocks.{block}.cross_attn.{{}}{part}_proj.weight": torch.randn(
            WIDTH, AUDIO_WIDTH, generator=generator
        )
        for block in range(blocks)
        for part in "kv"
    }
    projection = {
        "proj.weight": torch.randn(AUDIO_WIDTH, CHANNELS, generator=generator),
        "norm.weight": torch.ones(AUDIO_WIDTH),
        "norm.bias": torch.zeros(AUDIO_WIDTH),
    }
    return attention, projection


def prefixed(prefix, values):
    return {f"{prefix}{name}": value for name, value in values.items()}


def saved(folder, layout, attention, projection):
    with_processor = {name.format("processor."): value for name, value in attention.items()}
    if layout == "ckpt":
        path = folder / "fantasytalking_model.ckpt"
        torch.save({"proj_model": projection, "audio_processor": with_processor}, path)
        return path
    path = folder / f"{layout}.safetensors"
    if layout == "kijai":
        values = {name.format(""): value for name, value in attention.items()}
    else:
        values = prefixed("audio_processor.", with_processor)
    save_file(prefixed("proj_model.", projection) | values, path)
    return path


@pytest.mark.parametrize("layout", ["ckpt", "safetensors", "kijai"])
def test_every_layout_holds_the_same(tmp_path, layout):
    attention, projection = made_weights()
    adapter = load_audio_adapter(saved(tmp_path, layout, attention, projection))
    assert (len(adapter.branch.blocks), adapter.branch.width) == (BLOCKS, WIDTH)
    for name, value in attention.items():
        own = name.format("").replace("cross_attn.", "")
        torch.testing.assert_close(adapter.branch.state_dict()[own], value, rtol=0, atol=0)
    features = torch.randn(4, 1, CHANNELS)
    expected = torch.nn.functional.layer_norm(features[:, 0] @ projection["proj.weight"].T, (AUDIO_WIDTH,))
    torch.testing.assert_close(adapter.projection(features), expected)
    assert not any(weight.requires_grad for weight in adapter.branch.parameters())


def test_the_branch_keeps_the_files_precision_and_the_projection_is_exact(tmp_path):
    attention, projection = made_weights()
    path = saved(tmp_path, "kijai", {name: value.half() for name, value in attention.items()}, projection)
    kept, chosen = load_audio_adapter(path), load_audio_adapter(path, torch.bfloat16)
    assert next(kept.branch.parameters()).dtype == torch.float16
    assert next(chosen.branch.parameters()).dtype == torch.bfloat16
    assert next(chosen.projection.parameters()).dtype == torch.float32


def test_a_missing_block_is_named(tmp_path):
    attention, projection = made_weights()
    del attention["blocks.1.cross_attn.{}v_proj.weight"]
    with pytest.raises(WeightMismatchError, match=r"Missing: \['blocks.1.v_proj.weight'\]"):
        load_audio_adapter(saved(tmp_path, "kijai", attention, projection))


def test_what_is_too_much_is_named(tmp_path):
    attention, projection = made_weights()
    with pytest.raises(WeightMismatchError, match="extra"):
        load_audio_adapter(saved(tmp_path, "kijai", attention, projection | {"extra": torch.ones(1)}))


def test_a_matrix_of_another_size_is_named(tmp_path):
    attention, projection = made_weights()
    attention["blocks.2.cross_attn.{}k_proj.weight"] = torch.ones(WIDTH, AUDIO_WIDTH + 1)
    with pytest.raises(WeightMismatchError, match=r"blocks.2.k_proj.weight is \(8, 7\), expected \(8, 6\)"):
        load_audio_adapter(saved(tmp_path, "safetensors", attention, projection))


def test_a_file_of_another_model_is_refused(tmp_path):
    path = tmp_path / "wan.safetensors"
    save_file(
        {"blocks.0.cross_attn.q.weight": torch.ones(4, 4), "head.modulation": torch.ones(1, 2, 4)}, path
    )
    with pytest.raises(UnreadableWeightsError, match="does not hold FantasyTalking's audio weights"):
        load_audio_adapter(path)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_audio_adapter(tmp_path / "nowhere.ckpt")
