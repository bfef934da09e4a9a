"""The nodes of a FantasyTalking clip, on a small model with random weights in a models folder of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from talking_portrait.runtime.encoding_memory import encoding_memory
from talking_portrait.runtime.model_cache import model_cache

from ..small_fantasytalking import HEARING_ONLY, write_small_fantasytalking

SECONDS = 0.4
FRAMES = 5
"""At 12.5 fps: two latent frames."""


@contextmanager
def small_fantasytalking_here(folder: Path) -> Iterator[Path]:
    """Have two models listed in this folder, mine.safetensors with all branches and hearing.safetensors with those of
    the release, and nothing of them kept afterwards."""
    write_small_fantasytalking(folder / "fantasytalking")
    write_small_fantasytalking(folder / "fantasytalking", "hearing", parameters=HEARING_ONLY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TALKING_PORTRAIT_MODELS", str(folder))
        yield folder
    model_cache().clear()
    encoding_memory().clear()


class Graph:
    """The nodes of a clip, each with its schema's defaults where nothing else is said."""

    def __init__(self, nodes, portrait, model="mine.safetensors"):
        self.nodes, self.portrait = nodes, portrait
        (self.wan,) = self.run("TP_LoadWan", model=model)
        (self.models,) = self.run("TP_LoadFantasyTalking", wan=self.wan)

    def run(self, node_id, **inputs):
        node = self.nodes[node_id]
        required = node.INPUT_TYPES()["required"]
        defaults = {
            name: options["default"] for name, (_, options) in required.items() if "default" in options
        }
        return getattr(node(), node.FUNCTION)(**{**defaults, **inputs})

    def heard(self, seconds=SECONDS, pitch=0.2):
        wave = 0.3 * torch.sin(torch.arange(round(16000 * seconds)) * pitch)
        sound = {"waveform": wave[None, None], "sample_rate": 16000}
        return self.run("TP_AudioEmbedding", audio=sound, encoder="automatic", fantasytalking=self.models)[0]

    def sample(self, **inputs):
        given = {"fantasytalking": self.models, "portrait": self.portrait, **inputs}
        return self.run("TP_FantasyTalkingSampler", **given)

    def samples(self, **inputs):
        return self.sample(**inputs)[0]["samples"]

    def decode(self, latent, **inputs):
        return self.run("TP_FantasyTalkingDecode", fantasytalking=self.models, latent=latent, **inputs)[0]

    def identity(self, portrait=None):
        return self.run(
            "TP_IdentityEmbedding", fantasytalking=self.models, portrait=portrait or self.portrait
        )[0]

    def intensity(self, face=0.5, body=0.5, **inputs):
        return self.run("TP_MotionIntensity", face=face, body=body, fantasytalking=self.models, **inputs)
