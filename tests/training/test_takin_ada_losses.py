"""Takin-ADA's first-stage losses against values worked out by hand, and what must hold for any input."""

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.motion.keypoint_geometry import extractor_rotation, placed_keypoints
from talking_portrait.training import takin_ada_losses as losses
from talking_portrait.training.random_warp import random_warp
from talking_portrait.training.takin_ada_losses import PENALTIES, TakinADALossWeights, huber, wing

SEEDS = st.integers(0, 2**31)
FEW = settings(max_examples=20, deadline=None)
PENALTY_NAMES = pytest.mark.parametrize("penalty", sorted(PENALTIES))
DEFAULT_WEIGHTS = {
    "perceptual": 10,
    "adversarial": 1,
    "feature_matching": 10,
    "equivariance": 20,
    "keypoint_prior": 10,
    "head_pose": 20,
    "deformation": 5,
    "canonical": 10,
    "landmark": 10,
}
ONES = {name: torch.tensor(1.0) for name in DEFAULT_WEIGHTS}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def is_close(loss: torch.Tensor, expected: float) -> bool:
    return loss.ndim == 0 and loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_transform_turns_row_vectors_and_uses_all_of_the_translation():
    canonical = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]])
    quarter_turn = torch.tensor([[[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    deformation = torch.tensor([[[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]])
    translation = torch.tensor([[10.0, 20.0, 30.0]])
    placed = losses.keypoints_without_scale(canonical, quarter_turn, deformation, translation)
    torch.testing.assert_close(placed, torch.tensor([[[10.1, 21.2, 32.3], [9.0, 20.0, 30.0]]]))


@FEW
@given(seed=SEEDS, batch=st.integers(1, 3), count=st.integers(1, 21))
def test_transform_is_liveportraits_at_scale_1_without_its_dropped_depth(seed, batch, count):
    canonical, deformation = normal(seed, 2, batch, count, 3)
    angles, translation = normal(seed + 1, 2, batch, 3)
    rotation = extractor_rotation(40 * angles.numpy())
    placed = losses.keypoints_without_scale(canonical, torch.from_numpy(rotation), deformation, translation)
    arrays = (deformation.numpy(), np.ones(batch), translation.numpy())
    expected = placed_keypoints(canonical.numpy(), rotation, *arrays)
    expected[..., 2] += arrays[2][:, 2:]
    np.testing.assert_allclose(placed.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 2), (1, 4, 3), (2, 5, 3), (3, 3, 3), (2, 1, 3), (0, 4, 3)])
@pytest.mark.parametrize("name", ["canonical", "rotation", "deformation", "translation"])
def test_transform_refuses_other_shapes(name, shape):
    shapes = {"canonical": (2, 4, 3), "rotation": (2, 3, 3), "deformation": (2, 4, 3), "translation": (2, 3)}
    tensors = {key: torch.zeros(size) for key, size in {**shapes, name: shape}.items()}
    with pytest.raises(
        ValueError, match=r"(canonical|rotation|deformation|translation) has shape .*expected"
    ):
        losses.keypoints_without_scale(**tensors)


def test_huber_and_wing_by_hand():
    found = huber(torch.tensor([0.0, 0.05, -0.1, 0.3, -2.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.00125, 0.005, 0.025, 0.195]))
    found = wing(torch.tensor([0.0, 0.01, -0.03, 0.1, -1.1]))
    expected = [0.0, 0.1 * math.log(2), 0.1 * math.log(4), 0.1 * math.log(11), 1 + 0.1 * math.log(11)]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_penalties_are_continuous_at_their_joints_and_hubers_slope_too():
    around = torch.tensor([0.1 - 1e-9, 0.1, 0.1 + 1e-9], dtype=torch.float64, requires_grad=True)
    for penalty, slopes in ((huber, (0.1, 0.1)), (wing, (0.1 / 0.11, 1))):
        values = penalty(around)
        (gradient,) = torch.autograd.grad(values.sum(), around)
        assert (values - values[1]).abs().max() < 2e-9
        assert gradient[::2].tolist() == pytest.approx(slopes)


@settings(max_examples=60, deadline=None)
@given(difference=st.floats(-5, 5), knee=st.floats(1e-3, 3), epsilon=st.floats(1e-3, 3))
def test_penalties_are_their_closed_forms_for_any_constants(difference, knee, epsilon):
    size, d = abs(difference), torch.tensor(difference, dtype=torch.float64)
    parabola = size**2 / 2 if size <= knee else knee * (size - knee / 2)
    assert huber(d, knee).item() == pytest.approx(parabola, rel=1e-9, abs=1e-12)
    offset = knee - knee * math.log(1 + knee / epsilon)
    logarithm = knee * math.log(1 + size / epsilon) if size < knee else size - offset
    assert wing(d, knee, epsilon).item() == pytest.approx(logarithm, rel=1e-9, abs=1e-12)


@PENALTY_NAMES
def test_penalties_are_even_and_have_finite_gradients_everywhere(penalty):
    difference = torch.tensor([0.0, 0.1, -0.1, 1e-20, 1e6], requires_grad=True)
    found = PENALTIES[penalty](difference)
    found.sum().backward()
    assert difference.grad.isfinite().all()
    assert torch.equal(found, PENALTIES[penalty](-difference))
    assert found[0] == 0


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize(("penalty", "name"), [(huber, "delta"), (wing, "omega"), (wing, "epsilon")])
def test_penalties_refuse_constants_not_above_0(penalty, name, wrong):
    with pytest.raises(ValueError, match=f"{name} is"):
        penalty(torch.zeros(1), **{name: wrong})


def test_keypoint_prior_by_hand():
    """Squared distances 0.01, 0.04 and 0.05: each pair twice. The second sample is far apart: only its depth counts."""
    near = [[0.0, 0.0, 0.3], [0.1, 0.0, 0.3], [0.0, 0.2, 0.3]]
    far = [[0.0, 0.0, 0.0], [1.0, 0.0, 0.1], [0.0, 1.0, 0.2]]
    assert is_close(losses.keypoint_prior(torch.tensor([near])), 2 * (0.09 + 0.06 + 0.05) + 0.03)
    assert is_close(losses.keypoint_prior(torch.tensor([far])), 0.23)
    assert is_close(losses.keypoint_prior(torch.tensor([near, far])), (0.43 + 0.23) / 2)


def test_keypoint_prior_does_not_count_the_diagonal():
    there = [0.0, 0.0, 0.33]
    assert losses.keypoint_prior(torch.tensor([[there, [0.5, 0.0, 0.33]]])) == 0
    assert losses.keypoint_prior(torch.tensor([[there]])) == 0
    assert is_close(losses.keypoint_prior(torch.tensor([[there] * 3])), 6 * 0.1)


@FEW
@given(seed=SEEDS, count=st.integers(1, 8))
def test_keypoint_prior_is_the_sum_over_pairs_in_any_order(seed, count):
    points = 0.3 * normal(seed, 2, count, 3)
    expected = 0.0
    for sample in points.numpy():
        pairs = ((i, j) for i in range(count) for j in range(count) if i != j)
        expected += sum(max(0.0, 0.1 - np.sum((sample[i] - sample[j]) ** 2)) for i, j in pairs) / 2
        expected += abs(sample[:, 2].mean() - 0.33) / 2
    assert is_close(losses.keypoint_prior(points), expected)
    assert is_close(losses.keypoint_prior(points.flip(1)), expected)


def test_head_pose_loss_by_hand():
    predicted = torch.tensor([[10.0, -5.0, 0.0], [1.0, 1.0, 1.0]], requires_grad=True)
    reference = torch.tensor([[7.0, -3.0, 1.0], [1.0, 1.0, 1.0]], requires_grad=True)
    loss = losses.head_pose_loss(predicted, reference)
    loss.backward()
    assert is_close(loss, (3 + 2 + 1) / 2)
    assert predicted.grad.tolist() == [[0.5, -0.5, -0.5], [0, 0, 0]]
    assert reference.grad is None


def test_deformation_prior_by_hand():
    deformation = torch.tensor([[[0.1, -0.2, 0.3], [0.0, 0.0, -0.4]], [[0.0, 0.0, 0.0], [1.0, 1.0, -1.0]]])
    assert is_close(losses.deformation_prior(deformation), (1 + 3) / 2)
    assert losses.deformation_prior(torch.zeros(1, 21, 3)) == 0


def test_canonical_loss_by_hand():
    one = torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]])
    other = torch.tensor([[[0.05, -0.3, 0.0], [0.5, 0.5, 0.5]]])
    assert is_close(losses.canonical_keypoint_loss(one, other), (0.00125 + 0.025) / 2)
    assert is_close(losses.canonical_keypoint_loss(one, other, "l1"), 0.35 / 2)
    wings = 0.1 * math.log(6) + 0.2 + 0.1 * math.log(11)
    assert is_close(losses.canonical_keypoint_loss(one, other, "wing"), wings / 2)


@PENALTY_NAMES
@FEW
@given(seed=SEEDS)
def test_canonical_loss_is_symmetric_and_0_for_identical_images(penalty, seed):
    """The extractor stands for a network: what it makes of equal images is equal. Gradients reach both, finite."""
    images, extractor = normal(seed, 2, 2, 12), normal(seed + 1, 12, 15)
    one, other = ((image @ extractor).unflatten(1, (5, 3)).requires_grad_() for image in images)
    again = (images[0].clone() @ extractor).unflatten(1, (5, 3))
    same, forth = (losses.canonical_keypoint_loss(one, x, penalty) for x in (again, other))
    assert same == 0
    assert torch.autograd.grad(same, one)[0].isfinite().all()
    assert is_close(losses.canonical_keypoint_loss(other, one, penalty), forth.item())
    gradients = torch.autograd.grad(forth, (one, other))
    assert torch.equal(gradients[0], -gradients[1])
    assert (gradients[0].sign() == (one - other).sign()).all()


def test_landmark_loss_by_hand():
    """Two guided keypoints of three, out of order; their z and the third keypoint do not count."""
    source = torch.tensor([[[0.0, 0.0, 9.0], [5.0, 5.0, 5.0], [0.5, 0.5, 7.0]]])
    driving = torch.tensor([[[0.1, 0.1, 9.0], [6.0, 6.0, 6.0], [-0.5, -0.5, 7.0]]])
    landmarks = torch.tensor([[[0.5, 0.55], [0.3, 0.0]]]), torch.tensor([[[-0.5, -0.5], [0.1, 0.14]]])
    arguments = (source, driving, *landmarks, (2, 0))
    assert is_close(losses.landmark_loss(*arguments), (0.00125 + 0.025 + 0.0008) / 4)
    assert is_close(losses.landmark_loss(*arguments, penalty="l1"), (0.05 + 0.3 + 0.04) / 4)
    wings = 0.1 * math.log(6) + 0.2 + 0.1 * math.log(11) + 0.1 * math.log(5)
    assert is_close(losses.landmark_loss(*arguments, penalty="wing"), wings / 4)


@FEW
@given(seed=SEEDS, order=st.permutations(range(11, 21)))
def test_landmark_loss_is_0_where_each_picture_has_its_own_landmarks(seed, order):
    source, driving = normal(seed, 2, 2, 21, 3)
    own = (source[:, order, :2], driving[:, order, :2])
    assert losses.landmark_loss(source, driving, *own, order) == 0
    assert losses.landmark_loss(source, driving, *own[::-1], order) > 0


def test_the_default_guides_are_ten_and_the_other_keypoints_are_free():
    assert len(losses.GUIDED_KEYPOINTS) == len(set(losses.GUIDING_LANDMARKS)) == 10
    keypoints = torch.ones(1, 21, 3, requires_grad=True)
    losses.landmark_loss(keypoints, torch.ones(1, 21, 3), *torch.zeros(2, 1, 10, 2)).backward()
    assert keypoints.grad.nonzero().tolist() == [[0, k, axis] for k in range(10) for axis in range(2)]


def test_hinge_losses_by_hand():
    real = [torch.tensor([[2.0, 0.5], [-1.0, 1.0]]), torch.tensor([3.0])]
    fake = [torch.tensor([[-2.0, 0.5], [-0.5, -1.0]]), torch.tensor([1.0])]
    assert is_close(losses.hinge_discriminator_loss(real, fake), (0.5 + 2) / 4 + (1.5 + 0.5) / 4 + 0 + 2)
    assert is_close(losses.hinge_generator_loss(fake), 3 / 4 - 1)
    sure = torch.tensor([2.0], requires_grad=True)
    loss = losses.hinge_discriminator_loss([sure], [-sure])
    loss.backward()
    assert loss == sure.grad == 0


def test_feature_matching_by_hand_leaves_the_real_ones_alone():
    fake = [torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[[4.0]]])]
    real = [torch.tensor([[0.0, 4.0]], requires_grad=True), torch.tensor([[[4.5]]])]
    loss = losses.feature_matching_loss(fake, real)
    loss.backward()
    assert is_close(loss, 1.5 + 0.5)
    assert fake[0].grad.tolist() == [[0.5, -0.5]]
    assert real[0].grad is None


@FEW
@given(height=st.integers(8, 40), width=st.integers(8, 40), grey=st.floats(0, 1))
def test_pyramid_keeps_even_pictures_even_and_rounds_sizes_up(height, width, grey):
    levels = losses.image_pyramid(torch.full((1, 3, height, width), grey))
    assert [level.shape[2:] for level in levels] == [(-(-height // s), -(-width // s)) for s in (1, 2, 4, 8)]
    for level in levels:
        torch.testing.assert_close(level, torch.full_like(level, grey))


def test_pyramid_by_hand():
    """Half size: a Gaussian of half a pixel over 5 by 5 pixels, at every second one. A dot shows the kernel."""
    image = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    image[0, 1, 4, 4] = 1
    kernel = torch.tensor([0, math.exp(-8), 1, math.exp(-8), 0], dtype=torch.float64)
    kernel /= 1 + 2 * math.exp(-2) + 2 * math.exp(-8)
    half = losses.image_pyramid(image, 2)[1]
    torch.testing.assert_close(half, torch.stack([torch.zeros(5, 5), kernel.outer(kernel)])[None])


def test_pyramid_does_not_alias():
    """Stripes of one pixel, which plain subsampling would show as black or white, fade to grey."""
    image = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    for level in losses.image_pyramid(image)[2:]:
        middle = level[..., 2:-2]
        torch.testing.assert_close(middle, torch.full_like(middle, 0.5), atol=0.02, rtol=0)


def test_perceptual_loss_by_hand():
    """Even pictures stay even, so each level and map adds its own known difference."""
    prediction = torch.full((1, 3, 16, 16), 0.75, requires_grad=True)
    target = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    seen = []

    def features(picture):
        seen.append(picture.shape[2])
        return [picture, 2 * picture[:, :1, ::2]]

    loss = losses.perceptual_loss(prediction, target, features)
    loss.backward()
    assert is_close(loss, 4 * (0.25 + 0.5))
    assert sorted(seen) == [2, 2, 4, 4, 8, 8, 16, 16]
    assert prediction.grad.isfinite().all()
    assert (prediction.grad > 0).any()
    assert target.grad is None
    assert losses.perceptual_loss(target, target, features) == 0
    assert is_close(losses.perceptual_loss(prediction, target, features, levels=1), 0.75)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: losses.keypoint_prior(z(0, 5, 3)), "keypoints has shape"),
        (lambda z: losses.head_pose_loss(z(3), z(3)), "predicted has shape"),
        (lambda z: losses.head_pose_loss(z(2, 3), z(1, 3)), "reference has shape"),
        (lambda z: losses.deformation_prior(z(1, 63)), "deformation has shape"),
        (lambda z: losses.canonical_keypoint_loss(z(5, 3), z(5, 3)), "canonical has shape"),
        (lambda z: losses.canonical_keypoint_loss(z(2, 5, 3), z(1, 5, 3)), "other has shape"),
        (lambda z: losses.canonical_keypoint_loss(z(1, 5, 3), z(1, 5, 3), "l2"), "one of huber, l1, wing"),
        (lambda z: losses.landmark_loss(z(1, 5, 2), *z(3, 1, 10, 2)), "source_keypoints has shape"),
        (lambda z: losses.landmark_loss(z(2, 5, 3), *z(3, 1, 10, 2)), "driving_keypoints has shape"),
        (lambda z: losses.landmark_loss(*z(2, 1, 5, 3), *z(2, 1, 3, 2), (0,)), "source_landmarks has shape"),
        (lambda z: losses.landmark_loss(*z(2, 1, 1, 3), z(1, 1, 2), z(1, 2), (0,)), "driving_landmarks"),
        (lambda z: losses.landmark_loss(*z(2, 1, 5, 3), *z(2, 1, 1, 2), (0,), "l2"), "penalty is 'l2'"),
        (lambda z: losses.landmark_loss(*z(2, 1, 5, 3), *z(2, 1, 10, 2)), r"guided is .* from 0 to 4"),
        (lambda z: losses.landmark_loss(*z(2, 1, 5, 3), *z(2, 1, 2, 2), (-1, 0)), "guided is"),
        (lambda z: losses.landmark_loss(*z(2, 1, 5, 3), *z(2, 1, 2, 2), (0, 0)), "guided is"),
        (lambda z: losses.landmark_loss(*z(2, 1, 5, 3), *z(2, 1, 0, 2), ()), "guided is"),
        (lambda z: losses.hinge_generator_loss([]), "fake_scores is empty"),
        (lambda z: losses.hinge_generator_loss(z(2, 1)), "fake_scores is a tensor"),
        (lambda z: losses.hinge_discriminator_loss([], [z(1)]), "real_scores is empty"),
        (lambda z: losses.hinge_discriminator_loss([z(1)], z(1)), "fake_scores is a tensor"),
        (lambda z: losses.hinge_discriminator_loss([z(1), z(1)], [z(1)]), "2 real_scores and 1 fake_scores"),
        (lambda z: losses.feature_matching_loss([], []), "fake_features is empty"),
        (lambda z: losses.feature_matching_loss([z(1)], z(1)), "real_features is a tensor"),
        (lambda z: losses.feature_matching_loss([z(1)], [z(1), z(1)]), "expected the same"),
        (lambda z: losses.feature_matching_loss([z(1)], [z(2)]), "expected the same"),
        (lambda z: losses.perceptual_loss(*z(2, 1, 3, 8, 8), lambda x: x), "is a tensor"),
        (lambda z: losses.perceptual_loss(*z(2, 1, 3, 8, 8), lambda x: []), "is empty"),
        (lambda z: losses.perceptual_loss(*z(2, 3, 8, 8), lambda x: [x]), "prediction has shape"),
        (lambda z: losses.perceptual_loss(z(1, 3, 8, 8), z(1, 3, 8, 9), lambda x: [x]), "target has shape"),
        (lambda z: losses.image_pyramid(z(1, 3, 7, 9)), "too small for 4 levels, expected sides of 8"),
        (lambda z: losses.image_pyramid(z(1, 3, 7, 9), 0), "levels is 0"),
        (lambda z: losses.image_pyramid(z(3, 7, 9)), "image has shape"),
    ],
)
def test_refused_inputs(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros)


@FEW
@given(seed=SEEDS, spread=st.sampled_from([0.0, 0.1, 10.0]))
def test_gradients_are_finite_also_where_keypoints_coincide(seed, spread):
    keypoints = (spread * normal(seed, 2, 10, 3).float()).requires_grad_()
    other = spread * normal(seed + 1, 2, 10, 3).float()
    marks = (other[..., :2], other[..., :2])
    parts = [losses.keypoint_prior(keypoints), losses.deformation_prior(keypoints)]
    parts += [losses.canonical_keypoint_loss(keypoints, other, penalty) for penalty in PENALTIES]
    parts += [losses.landmark_loss(keypoints, other, *marks, penalty=penalty) for penalty in PENALTIES]
    parts += [losses.equivariance_loss(keypoints, keypoints, random_warp(2, generator(seed)))]
    for part in parts:
        (gradient,) = torch.autograd.grad(part, keypoints)
        assert part.isfinite()
        assert gradient.isfinite().all()


def test_total_is_the_weighted_sum_and_returns_its_parts():
    weights = TakinADALossWeights()
    total = weights.total(ONES, step=weights.canonical_ramp_steps)
    assert {name: part.item() for name, part in total.parts.items()} == DEFAULT_WEIGHTS
    assert total.loss == sum(DEFAULT_WEIGHTS.values())


def test_canonical_weight_rises_from_0():
    weights = TakinADALossWeights(canonical=8.0, canonical_ramp_steps=4)
    assert [weights.at_step(step)["canonical"] for step in range(6)] == [0, 2, 4, 6, 8, 8]
    assert weights.total(ONES, 0).loss == 86
    assert weights.total(ONES, 3).parts["canonical"] == 6
    assert TakinADALossWeights(canonical_ramp_steps=0).at_step(0)["canonical"] == 10


@FEW
@given(st.tuples(*[st.floats(-10, 10)] * 9), st.tuples(*[st.floats(0, 30)] * 9), st.integers(0, 20_000))
def test_total_is_linear_in_its_terms(values, scales, step):
    weights = TakinADALossWeights(**dict(zip(DEFAULT_WEIGHTS, scales, strict=True)))
    numbers = dict(zip(DEFAULT_WEIGHTS, values, strict=True))
    terms = {name: torch.tensor(number, requires_grad=True).double() for name, number in numbers.items()}
    total, used = weights.total(terms, step), weights.at_step(step)
    gradients = torch.autograd.grad(total.loss, list(terms.values()))
    assert [gradient.item() for gradient in gradients] == list(used.values())
    assert total.loss.item() == pytest.approx(sum(used[n] * numbers[n] for n in used), rel=1e-5, abs=1e-3)
    assert sum(part.item() for part in total.parts.values()) == pytest.approx(total.loss.item(), abs=1e-9)
    assert not any(part.requires_grad for part in total.parts.values())


def test_an_ablated_term_may_be_left_out_and_no_other():
    terms = {name: value for name, value in ONES.items() if name != "canonical"}
    assert TakinADALossWeights(canonical=0).total(terms, 10**6).loss == 86
    with pytest.raises(ValueError, match="missing canonical"):
        TakinADALossWeights().total(terms, 0)
    with pytest.raises(ValueError, match="0 given"):
        TakinADALossWeights(**dict.fromkeys(ONES, 0.0)).total({}, 0)
    with pytest.raises(ValueError, match="unknown identity"):
        TakinADALossWeights().total({**ONES, "identity": torch.tensor(1.0)}, 0)
    with pytest.raises(ValueError, match=r"term landmark has shape \(2,\)"):
        TakinADALossWeights().total({**ONES, "landmark": torch.ones(2)}, 0)
    with pytest.raises(ValueError, match="step is -1"):
        TakinADALossWeights().total(ONES, -1)


@pytest.mark.parametrize("name", [*DEFAULT_WEIGHTS, "canonical_ramp_steps"])
def test_weights_are_frozen_and_wrong_ones_refused(name):
    for wrong in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} is"):
            TakinADALossWeights(**{name: wrong})
    with pytest.raises(FrozenInstanceError):
        setattr(TakinADALossWeights(), name, 1)
