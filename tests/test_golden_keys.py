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
from talking_portrait.core_models.face.recognition import FaceRecognitionNetwork
from talking_portrait.core_models.key_tables import KEY_TABLES
from talking_portrait.core_models.keypoint_diffusion.denoiser import Denoiser, DenoiserParameters
from talking_portrait.core_models.motion.expression_network import ExpressionNetwork
from talking_portrait.core_models.motion.head_pose_network import HeadPoseNetwork
from talking_portrait.core_models.motion.motion_extractor import MotionExtractor
from talking_portrait.core_models.rendering.liveportrait import retargeting
from talking_portrait.core_models.rendering.liveportrait.appearance import AppearanceFeatureExtractor
from talking_portrait.core_models.rendering.liveportrait.generator import SpadeGenerator
from talking_portrait.core_models.rendering.liveportrait.warping import WarpingModule
from talking_portrait.core_models.strict_loading import KeyTable, map_keys, require_matching_keys
from talking_portrait.core_models.video_diffusion.actalker.condition_projections import (
    AudioProjection,
    IdentityProjection,
    MotionProjection,
)
from talking_portrait.core_models.video_diffusion.actalker.control_attention import ControlAttention
from talking_portrait.core_models.video_diffusion.actalker.pose_guider import PoseGuider
from talking_portrait.core_models.video_diffusion.actalker.unet import ACTalkerUNet, UNetParameters
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_attention import (
    ControlledCrossAttention,
    SharedControls,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjection as SoundProjection,
)
from talking_portrait.core_models.video_diffusion.wan.loading import WAN_ORIGINAL
from talking_portrait.core_models.video_diffusion.wan.transformer import WAN_I2V_14B, new_wan_transformer


@dataclass(frozen=True)
class PublishedModule:
    """One published file: its key list below the golden folder, the module's builder, and the key table."""

    keys: str
    build: Callable[[], torch.nn.Module]
    table: KeyTable = field(default_factory=dict)


def unet_adapters() -> torch.nn.ModuleList:
    """The adapters of ACTalker's UNet by themselves, in the order it registers them."""
    return torch.nn.ModuleList(
        module for module in ACTalkerUNet().modules() if isinstance(module, ControlAttention)
    )


def unet_before_adapters() -> torch.nn.Module:
    """ACTalker's UNet as it was saved before its adapters joined it."""
    unet = ACTalkerUNet()
    for attention in list(unet.modules()):
        if isinstance(getattr(attention, "processor", None), ControlAttention):
            del attention.processor
    return unet


def audio_branches() -> torch.nn.Module:
    """FantasyTalking's attention to sound by itself, in the places that it has in Wan."""
    blocks = torch.nn.ModuleList()
    for number in range(WAN_I2V_14B.num_layers):
        block = torch.nn.Module()
        block.attn2 = torch.nn.Module()
        block.attn2.processor = ControlledCrossAttention(
            WAN_I2V_14B.width, 2048, SharedControls(), block=number
        )
        blocks.append(block)
    return torch.nn.ModuleDict({"blocks": blocks})


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
    PublishedModule(
        "actalker/state_dict_audio_linear.json", AudioProjection, KEY_TABLES["actalker_audio_linear"]
    ),
    PublishedModule(
        "actalker/state_dict_id_proj_model.json", IdentityProjection, KEY_TABLES["actalker_id_proj_model"]
    ),
    PublishedModule(
        "actalker/state_dict_vasa_linear.json", MotionProjection, KEY_TABLES["actalker_vasa_linear"]
    ),
    PublishedModule("actalker/state_dict_pose_guider.json", PoseGuider, KEY_TABLES["actalker_pose_guider"]),
    PublishedModule("actalker/state_dict_expression_model.json", ExpressionNetwork),
    PublishedModule("actalker/state_dict_pose_model.json", HeadPoseNetwork),
    PublishedModule(
        "actalker/state_dict_arcface_r50.json", FaceRecognitionNetwork, KEY_TABLES["arcface_pth"]
    ),
    PublishedModule("actalker/state_dict_unet.json", ACTalkerUNet),
    PublishedModule("actalker/state_dict_unet_before_adapters.json", unet_before_adapters),
    PublishedModule("actalker/state_dict_adapter_module.json", unet_adapters),
    PublishedModule(
        "actalker/state_dict_unet_small.json",
        lambda: ACTalkerUNet(
            UNetParameters(
                channels=(32, 64, 64, 64), heads=(2, 4, 4, 4), condition_width=96, time_condition_width=32
            )
        ),
    ),
    PublishedModule(
        "fantasytalking/state_dict_wan21_i2v_14b.json", lambda: new_wan_transformer(WAN_I2V_14B), WAN_ORIGINAL
    ),
    PublishedModule("fantasytalking/state_dict_audio_processor.json", audio_branches, WAN_ORIGINAL),
    PublishedModule("fantasytalking/state_dict_proj_model.json", SoundProjection),
]


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
    held = {key for key, value in built.state_dict().items() if not value.is_meta}
    assert all(key.endswith(".mix_factor") for key in held)  # diffusers makes these single numbers in memory
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
    here = {path.relative_to(golden_folder).as_posix() for path in golden_folder.rglob("state_dict_*.json")}
    assert here <= landed
