"""The key tables of published layouts: every layout of one model arrives at the same keys."""

import pytest
import torch
from talking_portrait.core_models.key_tables import KEY_TABLES
from talking_portrait.core_models.keypoint_diffusion.denoiser import Denoiser, DenoiserParameters
from talking_portrait.core_models.strict_loading import load_strict, map_keys
from talking_portrait.weights_manifest.manifest import read_manifest


def mapped(layout, names):
    return set(map_keys({name: torch.empty(0) for name in names}, KEY_TABLES[layout], "file"))


def test_every_table_belongs_to_a_layout_of_the_manifest():
    assert set(KEY_TABLES) <= {row.layout for row in read_manifest().values()}


def test_three_layouts_of_fantasytalking_are_one():
    projection = {"proj_model.proj.weight", "proj_model.norm.weight", "proj_model.norm.bias"}
    kinds = [(block, kind) for block in range(40) for kind in "kv"]
    ours = projection | {f"blocks.{i}.cross_attn.processor.{kind}_proj.weight" for i, kind in kinds}
    assert len(ours) == 83
    processor = {f"audio_processor.blocks.{i}.cross_attn.processor.{k}_proj.weight" for i, k in kinds}
    kijai = {f"blocks.{i}.cross_attn.{k}_proj.weight" for i, k in kinds}
    assert mapped("fantasytalking_ckpt", projection | processor) == ours
    assert mapped("fantasytalking_safetensors", projection | processor) == ours
    assert mapped("fantasytalking_kijai", projection | kijai) == ours


@pytest.mark.parametrize("module", ["", "module."])
def test_stitching(module):
    names = [f"retarget_{part}.{module}mlp.0.weight" for part in ("shoulder", "mouth", "eye")]
    assert mapped("liveportrait_pth", names) == {f"{n}.mlp.0.weight" for n in ("stitching", "lip", "eye")}


def test_speech_encoder_of_wav2lip():
    names = ["state_dict.module.audio_encoder.0.conv_block.0.weight", "state_dict.module.output_block.0.bias"]
    assert mapped("wav2lip_pth", names) == {"audio_encoder.0.conv_block.0.weight"}
    assert mapped("wav2lip_pth", ["state_dict.module.novel"]) == {"state_dict.module.novel"}


def test_made_kdtalker_checkpoint_loads(tmp_path):
    """A file laid out like the published one, training state and all, at a small size."""
    parameters = DenoiserParameters(width=32, layers=1, heads=2, head_size=8, time_size=16, rotary_size=4)
    torch.manual_seed(0)
    state = Denoiser(parameters).state_dict()
    path = tmp_path / "KDTalker.pth"
    content = {f"point_model.model.{name}": value for name, value in state.items()}
    torch.save({"model": content, "optimizer": {"exp_avg": torch.ones(2)}, "epoch": 3, "model_ema": {}}, path)
    loaded = load_strict(lambda: Denoiser(parameters), path, KEY_TABLES["kdtalker_pth"])
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    del content["point_model.model." + next(iter(state))]
    torch.save({"model": content}, path)
    with pytest.raises(ValueError, match=r"Missing: \['"):
        load_strict(lambda: Denoiser(parameters), path, KEY_TABLES["kdtalker_pth"])
