"""The embedded small FantasyTalking through its nodes, from a picture and a sound to frames."""

import pytest
import torch
from talking_portrait.core_models.keypoint_diffusion.loading import EMBEDDED_POCKET
from talking_portrait.runtime.encoding_memory import encoding_memory
from talking_portrait.runtime.fantasytalking_models import (
    fantasytalking_model,
    identity_encoder,
    listening_encoder,
    parameters_of,
    wan_autoencoder,
)
from talking_portrait.runtime.model_cache import model_cache
from talking_portrait.training.made_heads.identity import made_identity
from talking_portrait.training.made_heads.portrait import draw_portrait

from .fantasytalking_graph import Graph

NAMES = ("fantasytalking_pocket", "fantasytalking_pocket_autoencoder")
FRAMES, SIZE = 5, 64

pytestmark = pytest.mark.usefixtures("host_folders")


@pytest.fixture
def pocket(nodes):
    """Its nodes, and a made head to speak."""
    if not all(EMBEDDED_POCKET.with_name(f"{name}.safetensors").is_file() for name in NAMES):
        pytest.skip("the small FantasyTalking has not been trained yet")
    yield Graph(nodes, draw_portrait(made_identity(10019), 128), "pocket (embedded)")
    model_cache().clear()
    encoding_memory().clear()


@pytest.fixture
def few_steps(pocket):
    """Inputs of a short clip."""
    return {"audio_embeds": pocket.heard(), "steps": 2, "framing": "around the face"}


def test_it_is_the_small_model_that_training_makes(pocket):
    """Sizes as of `training.fantasytalking_run.small_parameters`, listening to the embedded ear."""
    own = parameters_of(pocket.models)
    assert (own.defaults.fps, own.defaults.window, own.defaults.image_size) == (12.5, 37, SIZE)
    assert own.identity is not None
    assert own.intensity is not None
    assert listening_encoder(pocket.models) == "pocket_listener"
    assert identity_encoder(pocket.models) == NAMES[0]
    assert not pocket.wan.reads_prompts


def test_its_files_fit_each_other(pocket):
    with fantasytalking_model(pocket.models) as model, wan_autoencoder(pocket.wan) as autoencoder:
        assert model.parameters_used.wan.out_channels == autoencoder.config.z_dim
        assert all(value.isfinite().all() for value in model.state_dict().values())
        assert all(value.isfinite().all() for value in autoencoder.state_dict().values())


def test_a_picture_and_a_sound_become_frames(pocket, few_steps):
    identity, (intensity, used) = pocket.identity(), pocket.intensity(0.1, 0.9)
    assert "trained motion intensity network" in used
    latent, fps, count = pocket.sample(**few_steps, identity=identity, motion_intensity=intensity)
    assert (latent["samples"].shape, fps, count) == ((1, 16, 2, 8, 8), 12.5, FRAMES)
    frames = pocket.decode(latent)
    assert frames.shape == (FRAMES, SIZE, SIZE, 3)
    assert frames.isfinite().all()
    again = pocket.samples(**few_steps, identity=identity, motion_intensity=intensity)
    assert torch.equal(again, latent["samples"])


def test_published_weights_are_not_for_it(pocket):
    with pytest.raises(ValueError, match="belongs on the published Wan"):
        pocket.run("TP_LoadFantasyTalking", wan=pocket.wan, weights="fantasytalking_model.ckpt")
