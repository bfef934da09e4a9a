"""Every module that loads a published file, built on the meta device, against that file's list of keys.

A system that lands adds its modules to MODULES: the list of keys and shapes of the published file, how the module
is built from its frozen parameters, and the key table its loader uses.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from talking_portrait.core_models.audio.wav2lip_encoder import Wav2LipSpeechEncoder
from talking_portrait.core_models.key_tables import KEY_TABLES
from talking_portrait.core_models.keypoint_diffusion.denoiser import Denoiser, DenoiserParameters
from talking_portrait.core_models.motion.motion_extractor import MotionExtractor
from talking_portrait.core_models.rendering.liveportrait import retargeting
from talking_portrait.core_models.rendering.liveportrait.appearance import AppearanceFeatureExtractor
from talking_portrait.core_models.rendering.liveportrait.generator import SpadeGenerator
from talking_portrait.core_models.rendering.liveportrait.warping import WarpingModule
from talking_portrait.core_models.strict_loading import KeyTable, map_keys, require_matching_keys


@dataclass(frozen=True)
class PublishedModule:
    """One published file: its key list below the golden folder, the module's builder, and the key table."""

    keys: str
    build: Callable[[], torch.nn.Module]
    table: KeyTable = field(default_factory=dict)


MODULES = [
    PublishedModule(
        "liveportrait_kdtalker/state_dict_kdtalker.json",
        lambda: Denoiser(DenoiserParameters()),
        KEY_TABLES["kdtalker_pth"],
    ),
    PublishedModule("liveportrait_kdtalker/state_dict_wav2lip_audio_encoder.json", Wav2LipSpeechEncoder),
    PublishedModule(
        "liveportrait_kdtalker/state_dict_appearance_feature_extractor.json", AppearanceFeatureExtractor
    ),
    PublishedModule("liveportrait_kdtalker/state_dict_motion_extractor.json", MotionExtractor),
    PublishedModule("liveportrait_kdtalker/state_dict_warping_module.json", WarpingModule),
    PublishedModule("liveportrait_kdtalker/state_dict_spade_generator.json", SpadeGenerator),
    PublishedModule(
        "liveportrait_kdtalker/state_dict_stitching_stitching.json",
        lambda: retargeting.RetargetingNetwork(retargeting.STITCHING_PARAMETERS),
    ),
    PublishedModule(
        "liveportrait_kdtalker/state_dict_stitching_eye.json",
        lambda: retargeting.RetargetingNetwork(retargeting.EYE_PARAMETERS),
    ),
    PublishedModule(
        "liveportrait_kdtalker/state_dict_stitching_lip.json",
        lambda: retargeting.RetargetingNetwork(retargeting.LIP_PARAMETERS),
    ),
]

AWAITED = {
    "actalker": [
        "adapter_module",
        "arcface_r50",
        "audio_linear",
        "expression_model",
        "id_proj_model",
        "pose_guider",
        "pose_model",
        "unet",
        "unet_before_adapters",
        "unet_small",
        "vasa_linear",
    ],
    "fantasytalking": ["audio_processor", "proj_model", "wan21_i2v_14b"],
}
"""Published files whose modules come with later issues; a module that lands moves to MODULES."""


def published_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return tensors of the listed keys and shapes, without memory."""
    return {key: torch.empty(shape, device="meta") for key, shape in json.loads(path.read_text()).items()}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.keys)
def test_keys_and_shapes_are_those_of_the_published_file(module, golden_folder):
    path = golden_folder / module.keys
    if not path.is_file():
        pytest.skip(f"the key list {path} is not here")
    with torch.device("meta"):
        built = module.build()
    assert all(value.is_meta for value in built.state_dict().values())
    require_matching_keys(
        built.state_dict(), map_keys(published_tensors(path), module.table, str(path)), str(path)
    )


def test_a_wrong_parameter_would_be_seen(golden_folder):
    """The harness itself: a denoiser of another width does not pass."""
    path = golden_folder / MODULES[0].keys
    with torch.device("meta"):
        other = Denoiser(DenoiserParameters(heads=4))
    with pytest.raises(ValueError, match=r"Misshapen: \['"):
        require_matching_keys(
            other.state_dict(), map_keys(published_tensors(path), MODULES[0].table, "file"), "file"
        )


def test_no_key_list_is_forgotten(golden_folder):
    landed = {module.keys for module in MODULES}
    awaited = {f"{system}/state_dict_{name}.json" for system, names in AWAITED.items() for name in names}
    here = {path.relative_to(golden_folder).as_posix() for path in golden_folder.rglob("state_dict_*.json")}
    assert landed.isdisjoint(awaited)
    assert here <= landed | awaited
