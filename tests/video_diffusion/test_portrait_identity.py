"""Who a portrait shows: what the encoders see, and identities of another encoder."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.recognition import FaceRecognitionNetwork, FaceRecognitionParameters
from talking_portrait.core_models.video_diffusion.actalker.model import ACTalkerModel, ACTalkerParameters
from talking_portrait.core_models.video_diffusion.actalker.portrait_identity import (
    own_identity,
    recognised_identity,
    require_fitting_identity,
)
from talking_portrait.core_models.video_diffusion.actalker.prepared_picture import FACE_SHARE
from talking_portrait.core_models.video_types import Identity
from talking_portrait.training.actalker_run import small_parameters


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ACTalkerModel(small_parameters(6, 192)).eval().requires_grad_(False)


def face(middle=(80.0, 70.0), size=(40.0, 60.0)):
    corners = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) / 2
    return corners * size + middle


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (150, 160, 3), np.uint8)


def test_own_encoder_sees_a_square_in_which_the_face_has_its_share_of_the_height(model):
    frame = np.zeros((150, 160, 3), np.uint8)
    frame[40:100, 60:100] = 255
    identity = own_identity(model, frame, face(), "mine")
    rows = np.flatnonzero(identity.crop[:, 32, 0] > 127)
    assert identity.crop.shape == (64, 64, 3)
    assert len(rows) == pytest.approx(FACE_SHARE * 64, abs=1)
    assert (identity.encoder, identity.embedding.shape) == ("mine", (64,))


def test_own_encoder_sees_what_surrounds_the_face_and_no_more(model):
    frame = picture()
    far = frame.copy()
    far[140:, 150:] = 0
    near = frame.copy()
    near[60:80, 70:90] = 0
    plain = own_identity(model, frame, face(), "mine").embedding
    np.testing.assert_array_equal(own_identity(model, far, face(), "mine").embedding, plain)
    assert not np.allclose(own_identity(model, near, face(), "mine").embedding, plain)


def test_face_recognition_sees_the_upright_box_of_the_landmarks():
    parameters = FaceRecognitionParameters((1, 1, 1, 1), (4, 4, 4, 4), features=8, picture_size=16)
    network = FaceRecognitionNetwork(parameters).eval().requires_grad_(False)
    frame = np.zeros((150, 160, 3), np.uint8)
    frame[40:100, 60:100] = 255
    identity = recognised_identity(network, frame, face())
    assert (identity.encoder, identity.embedding.shape) == ("arcface", (8,))
    assert identity.crop.min() == 255


def test_a_model_without_an_encoder_says_so(model):
    from dataclasses import replace

    other = ACTalkerModel(replace(small_parameters(6, 192), portrait_encoder=None))
    with pytest.raises(ValueError, match="no portrait encoder of its own"):
        own_identity(other, picture(), face(), "mine")


@pytest.mark.parametrize(("encoder", "size"), [("arcface", 64), ("mine", 32)])
def test_identities_of_another_encoder_are_refused(encoder, size):
    identity = Identity(np.zeros(size), np.zeros((1, 1, 3)), encoder)
    with pytest.raises(ValueError, match=r"knows people by mine \(64 numbers\).*Identity Embedding"):
        require_fitting_identity(small_parameters(6, 192), identity, "mine")
    require_fitting_identity(
        small_parameters(6, 192), Identity(np.zeros(64), np.zeros((1, 1, 3)), "mine"), "mine"
    )
    with pytest.raises(ValueError, match="512 numbers"):
        require_fitting_identity(ACTalkerParameters(), identity, "arcface")
