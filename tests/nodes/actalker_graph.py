"""The nodes of an ACTalker clip, on a small model with random weights in a models folder of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from talking_portrait.runtime.model_cache import model_cache

from ..small_actalker import write_small_actalker

SECONDS = 0.4
FRAMES = 5
"""At 12.5 fps."""


@contextmanager
def small_actalker_here(folder: Path) -> Iterator[Path]:
    """Have mine.safetensors listed among the models, in this folder, and nothing of it kept afterwards."""
    write_small_actalker(folder / "actalker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TALKING_PORTRAIT_MODELS", str(folder))
        yield folder
    model_cache().clear()


class Graph:
    """The nodes of a clip, each with its schema's defaults where nothing else is said."""

    def __init__(self, nodes, portrait):
        self.nodes, self.portrait = nodes, portrait
        (self.models,) = self.run("TP_LoadACTalker", model="mine.safetensors")

    def run(self, node_id, **inputs):
        node = self.nodes[node_id]
        required = node.INPUT_TYPES()["required"]
        defaults = {
            name: options["default"] for name, (_, options) in required.items() if "default" in options
        }
        return getattr(node(), node.FUNCTION)(**{**defaults, **inputs})

    def heard(self, seconds=SECONDS):
        wave = 0.3 * torch.sin(torch.arange(round(16000 * seconds)) * 0.2)
        sound = {"waveform": wave[None, None], "sample_rate": 16000}
        return self.run("TP_AudioEmbedding", audio=sound, encoder="automatic", actalker=self.models)[0]

    def moved(self, seconds=SECONDS):
        motion, _ = self.run(
            "TP_ExpressionEditor", keyframes="0: neutral, 1: blink=1 yaw=12", duration=seconds
        )
        return self.run("TP_MotionEmbedding", actalker=self.models, motion=motion)[0]

    def control(self, masks=None, **inputs):
        if masks is None:
            masks = self.run("TP_FaceMaskBuilder", portrait=self.portrait, shape="boxes", feather=0.0)[:3]
        named = dict(zip(("face_mask", "audio_mask", "motion_mask"), masks, strict=True))
        return self.run("TP_MaskedSSMController", **named, **inputs)[0]

    def sample(self, control, **inputs):
        given = {
            "portrait": self.portrait,
            "identity": inputs.get("identity") or self.identity(),
            "framing": "around the face",
            "steps": 2,
        }
        return self.run("TP_ACTalkerSampler", actalker=self.models, control=control, **{**given, **inputs})

    def identity(self):
        return self.run("TP_IdentityEmbedding", actalker=self.models, portrait=self.portrait)[0]
