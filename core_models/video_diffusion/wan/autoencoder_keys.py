"""How the keys of `Wan2.1_VAE.pth` and its kin map to those of diffusers' `AutoencoderKLWan`."""

from __future__ import annotations

from ...strict_loading import KeyTable

ORIGINAL_MARK = "encoder.conv1.weight"
"""A key that only the original names have."""
_BLOCK_KEYS = {
    "residual.0.*": "norm1.*",
    "residual.2.*": "conv1.*",
    "residual.3.*": "norm2.*",
    "residual.6.*": "conv2.*",
    "shortcut.*": "conv_shortcut.*",
}
_SIDE_KEYS = {
    "conv1.*": "conv_in.*",
    "head.0.*": "norm_out.*",
    "head.2.*": "conv_out.*",
    "middle.1.*": "mid_block.attentions.0.*",
}


def original_key_table(levels: int, residual_blocks: int) -> KeyTable:
    """Return the table for a network of so many levels and so many residual blocks in a level of its encoder."""
    places = {"encoder.downsamples.{}": "encoder.down_blocks.{}"}
    for side in ("encoder", "decoder"):
        places |= {f"{side}.middle.{2 * i}": f"{side}.mid_block.resnets.{i}" for i in (0, 1)}
    places |= _upsampling_places(levels, residual_blocks + 1)
    table = {
        f"{old}.{part}": f"{new}.{ours}" for old, new in places.items() for part, ours in _BLOCK_KEYS.items()
    }
    table |= {f"{old}.*": f"{new}.*" for old, new in places.items()}  # resampling keeps its names
    for side in ("encoder", "decoder"):
        table |= {f"{side}.{old}": f"{side}.{new}" for old, new in _SIDE_KEYS.items()}
    return table | {"conv1.*": "quant_conv.*", "conv2.*": "post_quant_conv.*"}


def _upsampling_places(levels: int, resnets: int) -> dict[str, str]:
    """The original counts a decoder's blocks through, diffusers level by level: resnets, then what enlarges."""
    return {
        f"decoder.upsamples.{level * (resnets + 1) + i}": f"decoder.up_blocks.{level}."
        + (f"resnets.{i}" if i < resnets else "upsamplers.0")
        for level in range(levels)
        for i in range(resnets + 1)
    }
