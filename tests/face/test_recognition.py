"""Who a face is: what of a picture the network sees, bad boxes, and files that are not as they should be."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.recognition import (
    FaceRecognitionNetwork,
    FaceRecognitionParameters,
    identity_embedding,
    load_face_recognition,
    recognition_picture,
)
from talking_portrait.core_models.strict_loading import UnreadableWeightsError, WeightMismatchError

SMALL = FaceRecognitionParameters((1, 1, 2, 1), (4, 4, 8, 8), features=6, picture_size=16)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return FaceRecognitionNetwork(SMALL).eval().requires_grad_(False)


def picture(width=64, height=48, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class TestPicture:
    def test_a_box_of_the_network_s_size_is_seen_as_it_is(self):
        seen = recognition_picture(picture(), (10.4, 5.6, 16.0, 16.0), 16)
        assert np.array_equal(seen, picture()[6:22, 10:26])

    def test_it_is_squeezed_and_not_turned_nor_made_square(self):
        halves = np.zeros((40, 80, 3), np.uint8)
        halves[:, 40:] = 255
        seen = recognition_picture(halves, (0, 0, 80, 40), 16)
        assert not seen[:, :6].any()
        assert (seen[:, 10:] == 255).all()

    def test_it_is_black_outside_the_picture(self):
        seen = recognition_picture(np.full((20, 20, 3), 90, np.uint8), (-16, 0, 32, 20), 16)
        assert not seen[:, :6].any()
        assert (seen[:, 10:] == 90).all()

    @pytest.mark.parametrize(
        ("box", "message"),
        [
            ((1, 2, 3), "four finite numbers"),
            ((0, 0, float("nan"), 5), "four finite numbers"),
            ((5, 5, 0, 9), "holds no pixel"),
            ((5, 5, 9, -3), "holds no pixel"),
            ((64, 5, 9, 9), "outside the picture of 64 x 48"),
            ((5, -20, 9, 20), "outside the picture"),
        ],
    )
    def test_bad_boxes(self, box, message):
        with pytest.raises(ValueError, match=message):
            recognition_picture(picture(), box, 16)

    @pytest.mark.parametrize("spoiled", [picture() / 255.0, picture()[..., :1], picture()[:0], picture()[0]])
    def test_bad_pictures(self, spoiled):
        with pytest.raises(ValueError, match="uint8 RGB"):
            recognition_picture(spoiled, (0, 0, 9, 9), 16)


class TestEmbedding:
    BOX = (8, 4, 30, 32)

    def test_the_network_sees_minus_one_to_one(self, network):
        seen = torch.from_numpy(recognition_picture(picture(), self.BOX, 16))
        expected = network(seen.permute(2, 0, 1)[None] / 127.5 - 1)[0]
        found = identity_embedding(network, picture(), self.BOX)
        assert (found.shape, found.dtype) == ((6,), torch.float32)
        torch.testing.assert_close(found, expected)

    def test_the_same_box_gives_the_same_numbers_and_another_face_others(self, network):
        shot = picture()
        before = shot.copy()
        one, again = (identity_embedding(network, shot, np.array(self.BOX)) for _ in range(2))
        assert torch.equal(one, again)
        assert not torch.equal(one, identity_embedding(network, picture(seed=1), self.BOX))
        assert np.array_equal(shot, before)

    def test_it_is_not_normalised(self, network):
        doubled = FaceRecognitionNetwork(SMALL).eval().requires_grad_(False)
        state = network.state_dict()
        state |= {name: 2 * state[name] for name in ("features.weight", "features.bias")}
        doubled.load_state_dict(state)
        found = identity_embedding(network, picture(), self.BOX)
        torch.testing.assert_close(identity_embedding(doubled, picture(), self.BOX), 2 * found)

    def test_numbers_that_overflow_are_refused(self):
        made = FaceRecognitionNetwork(SMALL).eval().requires_grad_(False)
        made.fc.weight.mul_(float("inf"))
        with pytest.raises(ValueError, match=r"not finite in torch\.float32"):
            identity_embedding(made, picture(), self.BOX)

    def test_faces_of_another_size_are_refused(self, network):
        with pytest.raises(ValueError, match=r"expected \(batch, 3, 16, 16\)"):
            network(torch.zeros(1, 3, 112, 112))

    def test_sizes_that_do_not_fit_are_refused(self):
        with pytest.raises(ValueError, match="a multiple of 16"):
            FaceRecognitionParameters(picture_size=100)
        with pytest.raises(ValueError, match="4 depths and widths"):
            FaceRecognitionParameters(depths=(1, 2))


class TestLoading:
    def test_a_whole_file(self, network, tmp_path):
        torch.save(network.state_dict(), tmp_path / "backbone.pth")
        loaded = load_face_recognition(tmp_path / "backbone.pth", parameters=SMALL)
        assert not loaded.training
        box = (8, 4, 30, 32)
        assert torch.equal(
            identity_embedding(loaded, picture(), box), identity_embedding(network, picture(), box)
        )

    def test_all_faults_are_listed(self, network, tmp_path):
        path, state = tmp_path / "backbone.pth", network.state_dict()
        del state["prelu.weight"]
        state |= {"novel": torch.ones(1), "fc.bias": torch.ones(7)}
        torch.save(state, path)
        with pytest.raises(WeightMismatchError) as fault:
            load_face_recognition(path, parameters=SMALL)
        for part in ("Missing: ['prelu.weight']", "Unexpected: ['novel']", "fc.bias is (7,), expected (6,)"):
            assert part in str(fault.value)

    def test_no_file_and_a_damaged_one(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no weight file"):
            load_face_recognition(tmp_path / "backbone.pth")
        (tmp_path / "backbone.pth").write_bytes(b"not weights")
        with pytest.raises(UnreadableWeightsError, match="not a whole PyTorch file"):
            load_face_recognition(tmp_path / "backbone.pth")
