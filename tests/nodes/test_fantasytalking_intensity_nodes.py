"""Who moves and how much, in the graph: identities and intensities, of models that know them and of others."""

import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.landmarker import DetectedFace
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.core_models.video_types import Identity
from talking_portrait.core_models.wan_types import FantasyTalkingModels, WanModels
from talking_portrait.nodes import motion_intensity

pytestmark = pytest.mark.usefixtures("host_folders", "small_fantasytalking_folder")

HANDLE = ModelHandle("wan", "nowhere")
PUBLISHED = FantasyTalkingModels(
    "fantasytalking",
    WanModels("wan", HANDLE, HANDLE, HANDLE, HANDLE),
    ModelHandle("fantasytalking", "nowhere"),
)


class TestIntensity:
    def test_trained(self, fantasytalking_graph):
        intensity, used = fantasytalking_graph.intensity(0.25, 1.0)
        assert intensity.mean(1.0) == (0.25, 1.0)
        assert "the model's trained motion intensity network takes them" in used

    def test_over_time(self, fantasytalking_graph):
        intensity, _ = fantasytalking_graph.intensity(face_over_time="0: 0, 2: 1", body=0.75)
        np.testing.assert_allclose(intensity.on_frames(3, 1.0), [[0, 0.75], [0.5, 0.75], [1, 0.75]])

    def test_without_a_model_nothing_is_claimed(self, fantasytalking_graph):
        _, used = fantasytalking_graph.run("TP_MotionIntensity")
        assert "connect a model" in used

    def test_without_a_network_it_is_refused_unless_something_stands_in(self, hearing_graph):
        intensity, used = hearing_graph.intensity(1.0)
        assert "the sampler refuses" in used
        with pytest.raises(ValueError, match="no trained motion intensity"):
            hearing_graph.sample(audio_embeds=hearing_graph.heard(), motion_intensity=intensity)

    def test_guidance_by_sound_stands_in(self, hearing_graph):
        intensity, used = hearing_graph.intensity(1.0, stand_in="audio_guidance")
        assert "guidance by sound times 1.40 stands in for the face" in used
        heard = hearing_graph.heard()
        assert torch.allclose(
            hearing_graph.samples(audio_embeds=heard, motion_intensity=intensity),
            hearing_graph.samples(audio_embeds=heard, audio_guidance=2.8),
            atol=1e-5,
        )
        with pytest.raises(ValueError, match="there is no sound"):
            hearing_graph.sample(frames=5, motion_intensity=intensity)

    def test_words_stand_in_where_they_are_read(self, hearing_graph):
        intensity, used = hearing_graph.intensity(body=0.9, stand_in="prompt")
        assert "reads no prompts" in used
        with pytest.raises(ValueError, match="this model reads no prompts"):
            hearing_graph.sample(frames=5, motion_intensity=intensity)
        _, used = hearing_graph.run(
            "TP_MotionIntensity", body=0.9, stand_in="prompt", fantasytalking=PUBLISHED
        )
        assert "'(your prompt), moving a lot, with large, lively gestures.' stands in for the body" in used

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"face": 1.5}, "must be in 0..1"),
            ({"face_over_time": "0: 2"}, "the face's intensity.*expected 0 to 1"),
            ({"body_over_time": "now"}, "the body's intensity: cannot read the key frame"),
            ({"stand_in": "magic"}, "stand_in is 'magic'"),
        ],
    )
    def test_bad_input(self, fantasytalking_graph, inputs, message):
        with pytest.raises(ValueError, match=message):
            fantasytalking_graph.intensity(**inputs)


class TestSweep:
    def test_one_clip_for_each_line(self, fantasytalking_graph):
        intensities, labels = fantasytalking_graph.run("TP_MotionIntensitySweep")
        np.testing.assert_allclose([one.mean(1.0) for one in intensities], [[0.1] * 2, [0.5] * 2, [1] * 2])
        assert labels == ["intensity 0.1", "intensity 0.5", "intensity 1"]

    def test_a_stand_in_goes_along(self, fantasytalking_graph):
        (one,), _ = fantasytalking_graph.run(
            "TP_MotionIntensitySweep", intensities="0.2 0.9", stand_in="prompt"
        )
        assert one.stand_in == "prompt"
        assert one.mean(1.0) == pytest.approx((0.2, 0.9))

    def test_bad_input(self, fantasytalking_graph):
        with pytest.raises(ValueError, match="there are no intensities"):
            fantasytalking_graph.run("TP_MotionIntensitySweep", intensities=" ")


class TestIntensityFromVideo:
    @staticmethod
    def measured(fantasytalking_graph, monkeypatch, movement, **inputs):
        """What the node says of faces that move by `movement` (N, 2) pixels."""

        def face(place):
            points = np.zeros((478, 3), np.float32)
            points[:468] = canonical_face().vertices * [1, -1, 1] * 4
            points[:, :2] += 80 + np.asarray(place)
            return DetectedFace(points, np.zeros(52, np.float32), 1.0, (0.0, 0.0, 1.0, 1.0))

        class Faces:
            def __enter__(self):
                return [None if place is None else face(place) for place in movement]

            def __exit__(self, *_):
                return None

        monkeypatch.setattr(motion_intensity, "faces_of_frames", lambda *_: Faces())
        frames = torch.zeros(len(movement), 8, 8, 3)
        return fantasytalking_graph.run("TP_MotionIntensityFromVideo", frames=frames, **inputs)

    def test_a_body_that_sways_is_told_from_one_that_rests(self, fantasytalking_graph, monkeypatch):
        sways = [(40 * np.sin(step), 0) for step in range(12)]
        still, moved = (
            self.measured(
                fantasytalking_graph, monkeypatch, movement, fantasytalking=fantasytalking_graph.models
            )
            for movement in ([(0, 0)] * 12, sways)
        )
        assert moved[2] > still[2]
        assert moved[0].mean(1.0) == pytest.approx(moved[1:3])
        assert "trained motion intensity network" in moved[3]
        neutral = self.measured(fantasytalking_graph, monkeypatch, sways, body_motion="neutral")
        assert neutral[2] == 0.5

    def test_frames_without_a_face_are_left_out(self, fantasytalking_graph, monkeypatch):
        movement = [(3.0 * step, 0) for step in range(4)]
        with_gap = [movement[0], None, *movement[1:]]
        given = {"fps": 25.0}
        assert self.measured(fantasytalking_graph, monkeypatch, with_gap, **given)[1:3] == pytest.approx(
            self.measured(fantasytalking_graph, monkeypatch, movement, **given)[1:3]
        )

    def test_bad_input(self, fantasytalking_graph, monkeypatch):
        with pytest.raises(ValueError, match="at least 2 are needed"):
            self.measured(fantasytalking_graph, monkeypatch, [None, (0, 0)])
        with pytest.raises(ValueError, match="body_motion is 'feet'"):
            self.measured(fantasytalking_graph, monkeypatch, [(0, 0)] * 2, body_motion="feet")
        monkeypatch.undo()
        with pytest.raises(ValueError, match="Load Face Detector"):
            fantasytalking_graph.run("TP_MotionIntensityFromVideo", frames=torch.zeros(2, 8, 8, 3))


class TestIdentity:
    def test_of_a_model_s_own_encoder(self, fantasytalking_graph):
        identity, crop = fantasytalking_graph.run(
            "TP_IdentityEmbedding",
            fantasytalking=fantasytalking_graph.models,
            portrait=fantasytalking_graph.portrait,
        )
        assert (identity.encoder, identity.embedding.shape) == ("mine", (8,))
        assert crop.shape == (1, 32, 32, 3)

    def test_a_model_without_the_branch_says_so(self, hearing_graph):
        for models in (hearing_graph.models, PUBLISHED):
            with pytest.raises(ValueError, match=r"no identity branch.*leave the identity out"):
                hearing_graph.run(
                    "TP_IdentityEmbedding", fantasytalking=models, portrait=hearing_graph.portrait
                )

    def test_one_model_and_not_two(self, fantasytalking_graph):
        for models in ({}, {"actalker": object(), "fantasytalking": fantasytalking_graph.models}):
            with pytest.raises(ValueError, match="connect either actalker or fantasytalking"):
                fantasytalking_graph.run(
                    "TP_IdentityEmbedding", portrait=fantasytalking_graph.portrait, **models
                )

    def test_another_model_s_identity_is_refused(self, fantasytalking_graph, hearing_graph):
        stranger = Identity(np.zeros(512), np.zeros((1, 1, 3)), "arcface")
        with pytest.raises(ValueError, match=r"knows people by mine .*Identity Embedding"):
            fantasytalking_graph.sample(frames=5, identity=stranger)
        with pytest.raises(ValueError, match="no identity branch"):
            hearing_graph.sample(frames=5, identity=fantasytalking_graph.identity())
