"""Networks beside those that are trained to be kept: what compares pictures, and what judges them."""

import pytest
import torch
from talking_portrait.training.patch_discriminator import (
    DiscriminatorParameters,
    PatchDiscriminator,
    new_discriminator,
)
from talking_portrait.training.perceptual_features import (
    RandomFeatures,
    Vgg19Features,
    features_name,
    load_vgg19,
)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_random_features_are_the_same_everywhere_and_frozen():
    first, second = RandomFeatures(), RandomFeatures()
    assert same(first.state_dict(), second.state_dict())
    assert not any(p.requires_grad for p in first.parameters())
    maps = first(torch.full((1, 3, 8, 8), 0.5))
    assert torch.equal(maps[0], torch.full((1, 3, 8, 8), 0.5))
    assert maps[1][..., 1:-1, 1:-1].abs().amax() < 1e-5  # an even area has no edges


def test_vgg_loads_torchvisions_keys_strictly(tmp_path):
    network = Vgg19Features()
    assert [network.features[index].__class__.__name__ for index in network.taken] == ["ReLU"] * 5
    assert [index - 1 for index in network.taken] == [0, 5, 10, 19, 28]
    path = tmp_path / "vgg19.pth"
    further = {"features.34.bias": torch.zeros(1), "classifier.0.weight": torch.zeros(1)}
    torch.save({**network.state_dict(), **further}, path)
    loaded = load_vgg19(path)
    shapes = [tuple(values.shape[1:]) for values in loaded(torch.rand(1, 3, 16, 16))]
    assert shapes == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1)]
    names = [features_name(each) for each in (network, loaded, Vgg19Features())]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("VGG-19, SHA-256 ")
    torch.save({"features.0.bias": torch.zeros(64)}, path)
    with pytest.raises(ValueError, match=r"features\.0\.weight"):
        load_vgg19(path)


def test_the_discriminator_judges_patches_at_every_scale():
    judge = new_discriminator(DiscriminatorParameters(4, layers=2, scales=2), 0)
    judged = judge(torch.rand(2, 3, 16, 16))
    assert [tuple(scores.shape) for scores in judged.scores] == [(2, 1, 4, 4), (2, 1, 2, 2)]
    assert len(judged.features) == 4
    again = new_discriminator(DiscriminatorParameters(4, layers=2, scales=2), 0)
    assert same(judge.eval().state_dict().copy(), judge.state_dict())
    assert torch.equal(judge.scales[0].last.bias, again.scales[0].last.bias)
    with pytest.raises(ValueError, match="too small"):
        PatchDiscriminator()(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="layers is 0"):
        DiscriminatorParameters(layers=0)
