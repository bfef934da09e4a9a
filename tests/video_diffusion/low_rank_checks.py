"""LoRA files merged into a small Wan, and what its weights are then."""

import torch
from talking_portrait.core_models.low_rank_file import LowRankFile
from talking_portrait.core_models.video_diffusion.wan.low_rank_merging import merge_low_rank_files

from ..small_low_rank import ORIGINAL_LAYERS, PICTURE_LAYERS

LAYERS = ORIGINAL_LAYERS | PICTURE_LAYERS
RANK = 2


def merged(model, *files, **options):
    """The state of a model's transformer with files (path, strength) merged into it."""
    given = [LowRankFile(str(path), *strength) for path, *strength in files]
    merge_low_rank_files(model.transformer, given, **options)
    return model.transformer.state_dict()


def expect_changed(found, untouched, changes):
    """All weights are as they were but for these sums."""
    before = untouched.transformer.state_dict()
    assert found.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(found[name], value + changes[name] if name in changes else value, msg=name)


def products(pairs, factor=1.0):
    """What pairs add to weights."""
    return {f"{layer}.weight": factor * up @ down for layer, (down, up) in pairs.items()}
