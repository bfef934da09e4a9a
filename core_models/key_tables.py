"""How the keys of published files map to those of our modules, by the layout that the weights manifest names.

A table holds for a pickle and for the safetensors made from it: nested dictionaries are joined by dots. Keys dropped
on purpose are listed with None; anything else a file holds is an error when it is loaded. Layouts that are not here
need no table, or come with their system.
"""

from __future__ import annotations

from .strict_loading import KeyTable

_STITCHING: KeyTable = {
    "retarget_shoulder.module.*": "stitching.*",
    "retarget_mouth.module.*": "lip.*",
    "retarget_eye.module.*": "eye.*",
    "retarget_shoulder.*": "stitching.*",
    "retarget_mouth.*": "lip.*",
    "retarget_eye.*": "eye.*",
}
"""The three small networks in one file; the original was saved from a distributed module."""

KEY_TABLES: dict[str, KeyTable] = {
    "liveportrait_pth": _STITCHING,
    "liveportrait_safetensors": _STITCHING,
    "kdtalker_pth": {
        "model.point_model.model.*": "*",
        "point_model.model.*": "*",
        "optimizer.*": None,  # the rest belongs to training
        "scheduler.*": None,
        "model_ema.*": None,
        "best_val": None,
    },
    "wav2lip_pth": {
        "state_dict.module.audio_encoder.*": "audio_encoder.*",
        "state_dict.module.face_encoder_blocks.*": None,  # KDTalker uses the speech encoder only
        "state_dict.module.face_decoder_blocks.*": None,
        "state_dict.module.output_block.*": None,
        "optimizer.*": None,
    },
    "actalker_audio_linear": {},  # these files' keys are our modules' own
    "actalker_pose_guider": {},
    "actalker_id_proj_model": {},
    "actalker_vasa_linear": {},
    "actalker_expression": {
        "generator.expression_model.*": "expression.*",
        "pose_model.*": "pose.*",
        "*": None,  # the generator whose training made them
    },
    "arcface_pth": {},
    "whisper_transformers": {
        "model.encoder.*": "*",
        "encoder.*": "*",
        "model.decoder.*": None,  # ACTalker hears, it does not write
        "decoder.*": None,
        "proj_out.weight": None,
    },
    "fantasytalking_ckpt": {"audio_processor.*": "*"},
    "fantasytalking_safetensors": {"audio_processor.*": "*"},
    "fantasytalking_kijai": {
        "blocks.{}.cross_attn.k_proj.weight": "blocks.{}.cross_attn.processor.k_proj.weight",
        "blocks.{}.cross_attn.v_proj.weight": "blocks.{}.cross_attn.processor.v_proj.weight",
    },
}
