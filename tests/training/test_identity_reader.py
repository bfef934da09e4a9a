"""A reader of people: who is who by the middle of the face, whatever stands behind it."""

import numpy as np
import pytest
import torch
from talking_portrait.training import identity_reader as made
from torch.nn import functional as F


def faces(person: int, count: int = 4, seed: int = 0) -> np.ndarray:
    """Faces of a person's colour, with noise that tells nothing."""
    colour = np.random.default_rng(person).integers(40, 215, 3)
    noise = np.random.default_rng([person, seed]).normal(0, 12, (count, 36, 28, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


PEOPLE = [[faces(person), faces(person, seed=1)] for person in range(8)]


def test_it_tells_people_apart_that_it_never_saw():
    reader = made.fitted_identity_reader(PEOPLE, steps=40)
    known = [reader.person(faces(person)) for person in range(20, 26)]
    again = [reader.person(faces(person, seed=5)) for person in range(20, 26)]
    alike = np.array([[one @ other for other in again] for one in known])
    assert (alike.argmax(axis=1) == np.arange(6)).mean() > 0.7
    assert np.diag(alike).mean() > alike[~np.eye(6, dtype=bool)].mean() + 0.2
    np.testing.assert_allclose(np.linalg.norm(known, axis=1), 1, rtol=1e-5)


def test_the_same_seed_gives_the_same_reader_and_the_callers_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, again, other = (made.fitted_identity_reader(PEOPLE[:2], 2, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(one.person(faces(0)), again.person(faces(0)))
    assert not np.array_equal(one.person(faces(0)), other.person(faces(0)))


def test_the_loss_is_least_where_everybody_finds_themselves():
    people = F.normalize(torch.eye(4, 6) + 0.01, dim=1)
    own = made.contrastive_loss(people, people)
    mixed = made.contrastive_loss(people, people.roll(1, 0))
    assert own < 0.01 < mixed
    even = made.contrastive_loss(people[:1].expand(4, -1), people[:1].expand(4, -1))
    assert even.item() == pytest.approx(np.log(4), rel=1e-5)


def test_a_face_is_cut_around_its_middle_and_edges_are_repeated():
    frames = np.arange(2 * 64 * 64 * 3, dtype=np.int64).reshape(2, 64, 64, 3).astype(np.uint8)
    cut = made.face_middles(frames, np.array([[32.2, 29.6], [-50, 0]]))
    assert cut.shape == (2, 36, 28, 3)
    np.testing.assert_array_equal(cut[0], frames[0, 30 - 18 : 30 + 18, 32 - 14 : 32 + 14])
    np.testing.assert_array_equal(cut[1, 18, 14:], frames[1, 0, :14])
    np.testing.assert_array_equal(cut[1, :18, :14], np.broadcast_to(frames[1, 0, 0], (18, 14, 3)))


def test_likeness_is_the_mean_cosine():
    one, other = np.array([1.0, 0]), np.array([0, 1.0])
    assert made.likeness(one, [one]) == 1
    assert made.likeness(one, [one, other, -one]) == pytest.approx(0)
    with pytest.raises(ValueError, match="nobody"):
        made.likeness(one, [])


def test_bad_input():
    reader = made.IdentityReader()
    for wrong in (np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 36, 28, 3)), faces(0)[:0]):
        with pytest.raises(ValueError, match="expected uint8"):
            reader.person(wrong)
    for people, steps in ((PEOPLE[:1], 3), ([*PEOPLE[:1], []], 3), (PEOPLE, 0)):
        with pytest.raises(ValueError, match="at least two people"):
            made.fitted_identity_reader(people, steps)
