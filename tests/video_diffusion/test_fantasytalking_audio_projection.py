"""Features of speech to audio tokens: each for itself, layers summed by shares, and what does not fit."""

import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.audio_projection import (
    AudioProjection,
    AudioProjectionParameters,
)


def projection(**sizes):
    torch.manual_seed(0)
    return AudioProjection(AudioProjectionParameters(**sizes)).requires_grad_(False)


def test_published_sizes():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in AudioProjection().state_dict().items()}
    assert shapes == {"proj.weight": (2048, 768), "norm.weight": (2048,), "norm.bias": (2048,)}


@pytest.mark.parametrize("layers", [1, 3])
def test_tokens_have_mean_0_and_variance_1_at_first(layers):
    tokens = projection(channels=16, width=64, layers=layers)(torch.randn(9, layers, 16))
    assert tokens.shape == (9, 64)
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(9), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(dim=-1, unbiased=False), torch.ones(9), atol=1e-3, rtol=0)


def test_each_step_is_projected_for_itself():
    network, features = projection(channels=6, width=8, layers=2), torch.randn(2, 7, 2, 6)
    whole = network(features)
    assert whole.shape == (2, 7, 8)
    torch.testing.assert_close(network(features[1, 3:5]), whole[1, 3:5])


def test_layers_are_summed_by_their_shares():
    """Equal at first; a layer whose weight is far above the others counts alone."""
    network, one = projection(channels=6, width=8, layers=3), projection(channels=6, width=8)
    one.load_state_dict(
        {name: value for name, value in network.state_dict().items() if "layer_weights" not in name}
    )
    features = torch.randn(5, 3, 6)
    torch.testing.assert_close(network(features), one(features.mean(dim=1, keepdim=True)))
    network.layer_weights.weights[1] = 50.0
    torch.testing.assert_close(network(features), one(features[:, 1:2]))


@pytest.mark.parametrize("shape", [(3, 6), (5, 2, 6), (5, 3, 7), (6,)])
def test_other_features_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(..., T, 3, 6\)"):
        projection(channels=6, width=8, layers=3)(torch.zeros(shape))


@pytest.mark.parametrize(("name", "value"), [("channels", 0), ("width", 2.0), ("layers", True)])
def test_sizes_that_are_none_are_refused(name, value):
    with pytest.raises(ValueError, match=f"AudioProjectionParameters.{name} is {value}"):
        AudioProjectionParameters(**{name: value})
