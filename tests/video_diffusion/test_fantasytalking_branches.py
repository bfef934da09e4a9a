"""The two branches that the paper has beside audio: what they depend on, and what they are before training."""

import pytest
import torch
from talking_portrait.core_models.video_diffusion.fantasytalking.identity_branch import (
    IdentityBranch,
    IdentityBranchParameters,
)
from talking_portrait.core_models.video_diffusion.fantasytalking.intensity_network import (
    COEFFICIENT_SCALE,
    IntensityNetwork,
    IntensityParameters,
    coefficient_waves,
)

IDENTITY = IdentityBranchParameters(features=6, width=10, queries=5, layers=2, heads=2, hidden=8, tokens=3)
INTENSITY = IntensityParameters(frequency_dim=16, hidden=12, width=20)


def seeded(make, parameters, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(parameters)


@pytest.fixture
def branch() -> IdentityBranch:
    return seeded(IdentityBranch, IDENTITY)


@pytest.fixture
def network() -> IntensityNetwork:
    """One whose projection learned something."""
    network = seeded(IntensityNetwork, INTENSITY)
    torch.nn.init.normal_(network.proj_out.weight, generator=torch.Generator().manual_seed(1))
    return network.requires_grad_(False)


def embeddings(count: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(count, IDENTITY.features, generator=torch.Generator().manual_seed(seed))


class TestIdentity:
    def test_tokens_differ_from_query_to_query_and_from_person_to_person(self, branch):
        tokens = branch(embeddings(3))
        assert tokens.shape == (3, 5, 10)
        assert torch.pdist(tokens[0]).min() > 1e-4
        assert torch.pdist(tokens.flatten(1)).min() > 1e-2

    def test_people_do_not_hang_on_their_batch(self, branch):
        whole = branch(embeddings(3))
        torch.testing.assert_close(branch(embeddings(3)[1:2])[0], whole[1])

    def test_the_same_queries_give_the_same_tokens(self, branch):
        """Nothing but the queries tells one token from another."""
        with torch.no_grad():
            branch.queries[3] = branch.queries[1]
        tokens = branch(embeddings(1))[0]
        torch.testing.assert_close(tokens[1], tokens[3])

    def test_every_weight_learns(self, branch):
        branch(embeddings(2)).square().sum().backward()
        idle = [name for name, value in branch.named_parameters() if not value.grad.abs().sum() > 0]
        assert not [name for name in idle if not name.endswith("to_k.bias")]  # softmax does not see it

    def test_the_defaults_are_the_documented_sizes(self):
        with torch.device("meta"):
            branch = IdentityBranch()
        assert branch(torch.zeros(1, 512, device="meta")).shape == (1, 32, 2048)
        assert sum(value.numel() for value in branch.parameters()) < 25e6

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"queries": 0}, "queries is 0"),
            ({"layers": 1.5}, "layers is 1.5"),
            ({"heads": True}, "heads is True"),
            ({"hidden": 10, "heads": 4}, "hidden is 10, which 4 heads"),
        ],
    )
    def test_bad_sizes_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            IdentityBranchParameters(**change)

    def test_embeddings_of_another_size_are_refused(self, branch):
        with pytest.raises(ValueError, match=r"\(2, 512\), expected \(batch, 6\)"):
            branch(torch.zeros(2, 512))


class TestIntensity:
    def test_a_fresh_network_changes_nothing_and_can_learn(self):
        network = seeded(IntensityNetwork, INTENSITY)
        added = network(torch.tensor([[0.1, 0.9], [1.0, 0.0]]))
        assert added.shape == (2, 20)
        assert not added.any()
        added.sum().backward()
        assert network.proj_out.weight.grad.abs().sum() > 0

    def test_face_and_body_are_told_apart(self, network):
        one, other, equal = network(torch.tensor([[0.2, 0.8], [0.8, 0.2], [0.2, 0.8]]))
        assert not torch.allclose(one, other, atol=1e-3)
        torch.testing.assert_close(one, equal)

    def test_near_coefficients_are_near_and_far_ones_far(self, network):
        added = network(torch.tensor([[0.5, 0.5], [0.5005, 0.5], [0.9, 0.5]]))
        near, far = (torch.linalg.norm(added[i] - added[0]) for i in (1, 2))
        assert near < far / 5

    def test_waves_are_those_of_the_scaled_coefficient(self):
        waves = coefficient_waves(torch.tensor([0.0, 0.37]), 16)
        assert waves.dtype == torch.float32
        torch.testing.assert_close(waves[0], torch.tensor([1.0] * 8 + [0.0] * 8))
        torch.testing.assert_close(waves[1, 0], torch.cos(torch.tensor(0.37 * COEFFICIENT_SCALE)))
        torch.testing.assert_close(waves[1, :8] ** 2 + waves[1, 8:] ** 2, torch.ones(8))

    def test_half_precision_weights_take_any_coefficients(self, network):
        assert network.bfloat16()(torch.tensor([[0.5, 0.5]])).dtype == torch.bfloat16

    def test_every_weight_learns(self, network):
        network.requires_grad_(True)(torch.tensor([[0.3, 0.6]])).square().sum().backward()
        assert all(value.grad.abs().sum() > 0 for value in network.parameters())

    def test_the_defaults_fit_the_published_width(self):
        with torch.device("meta"):
            network = IntensityNetwork()
        assert network(torch.zeros(1, 2, device="meta")).shape == (1, 5120)

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"hidden": 0}, "hidden is 0"), ({"frequency_dim": 15}, "frequency_dim is 15, expected an even")],
    )
    def test_bad_sizes_are_named(self, change, message):
        with pytest.raises(ValueError, match=message):
            IntensityParameters(**change)

    @pytest.mark.parametrize("shape", [(2,), (2, 3), (1, 1, 2)])
    def test_other_shapes_are_refused(self, network, shape):
        with pytest.raises(ValueError, match="face and body"):
            network(torch.zeros(shape))
