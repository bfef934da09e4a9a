"""Who moves and how much, in the graph: identities and intensities, of models that know them and of others."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.landmarker import DetectedFace
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.motion.motion_intensity import DEFAULT_INTENSITY_SCALE
from talking_portrait.core_models.types import ModelHandle
from talking_portrait.core_models.video_types import Identity
from talking_portrait.core_models.wan_types import FantasyTalkingModels, WanModels
from talking_portrait.headless.executor import GraphExecutor
from talking_portrait.headless.validation import GraphValidationError
from talking_portrait.nodes import NODE_CLASS_MAPPINGS, motion_intensity

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


def face_points(place):
    """(478, 3) pixels of a face 80 right and below of a place."""
    points = np.zeros((478, 3), np.float32)
    points[:468] = canonical_face().vertices * [1, -1, 1] * 4
    points[:, :2] += 80 + np.asarray(place)
    return points


def pose_keypoints(trunks):
    """POSE_KEYPOINT of a person whose neck and shoulders lie about these places (N, 2); None where nobody is."""
    frames = []
    for place in trunks:
        joints = np.zeros((18, 3))
        if place is not None:
            joints[[0, 1, 2, 5, 4]] = [(0, 0, 1), (0, 60, 1), (-50, 60, 1), (50, 60, 1), (0, 300, 1)]
            joints[[0, 1, 2, 5], :2] += np.array(place)
        people = [] if place is None else [{"pose_keypoints_2d": joints.ravel().tolist()}]
        frames.append({"people": people, "canvas_width": 400, "canvas_height": 300})
    return frames


class TestIntensityFromVideo:
    @staticmethod
    def measured(fantasytalking_graph, monkeypatch, movement, **inputs):
        """What the node says of faces that move by `movement` (N, 2) pixels."""

        def face(place):
            return DetectedFace(face_points(place), np.zeros(52, np.float32), 1.0, (0.0, 0.0, 1.0, 1.0))

        class Faces:
            def __enter__(self):
                return [None if place is None else face(place) for place in movement]

            def __exit__(self, *_):
                return None

        monkeypatch.setattr(motion_intensity, "faces_of_frames", lambda *_: Faces())
        frames = torch.zeros(len(movement), 300, 400, 3)
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

    def test_joints_tell_how_the_body_moves_and_the_text_says_so(self, fantasytalking_graph, monkeypatch):
        still = [(0, 0)] * 12
        places = [(80 + 6 * np.sin(step), 80) for step in range(12)]
        joints = pose_keypoints(places)
        found = self.measured(fantasytalking_graph, monkeypatch, still, body_joints=joints)
        moved = np.var([(place[0] - 80) / 100 for place in places])  # the shoulders are 100 apart
        assert found[2] == pytest.approx(DEFAULT_INTENSITY_SCALE.body.share(moved))
        assert 0 < found[2] < 1
        assert found[3].endswith("joints of neck and shoulders, all seen in 12 of 12 frames.")
        by_neck = self.measured(fantasytalking_graph, monkeypatch, still)
        assert by_neck[2] == 0
        assert by_neck[3].endswith("measured by the neck's place.")
        assert by_neck[1] == found[1]
        neutral = self.measured(
            fantasytalking_graph, monkeypatch, still, body_joints=joints, body_motion="neutral"
        )
        assert neutral[2] == 0.5
        assert neutral[3].endswith("neutral, as chosen; nothing was measured.")

    def test_frames_without_the_person_are_left_out(self, fantasytalking_graph, monkeypatch):
        places = [(80 + 2 * step, 80) for step in range(6)]
        given = {"movement": [(0, 0)] * 7, "body_joints": pose_keypoints([*places[:3], None, *places[3:]])}
        gaps = self.measured(fantasytalking_graph, monkeypatch, **given)
        whole = self.measured(
            fantasytalking_graph, monkeypatch, [(0, 0)] * 6, body_joints=pose_keypoints(places)
        )
        assert gaps[2] == pytest.approx(whole[2])
        assert "all seen in 6 of 7 frames" in gaps[3]

    def test_a_larger_picture_of_the_same_is_the_same(self, fantasytalking_graph, monkeypatch):
        """The pose node's canvas is twice as large as the frames."""
        places = [(80 + 3 * (step % 3), 80) for step in range(6)]
        large = pose_keypoints(places)
        for one in large:
            one["canvas_width"], one["canvas_height"] = 800, 600
            rows = np.array(one["people"][0]["pose_keypoints_2d"]).reshape(-1, 3) * (2, 2, 1)
            one["people"][0]["pose_keypoints_2d"] = rows.ravel().tolist()
        found = [
            self.measured(fantasytalking_graph, monkeypatch, [(0, 0)] * 6, body_joints=joints)[2]
            for joints in (pose_keypoints(places), large)
        ]
        assert found[0] == pytest.approx(found[1])
        assert 0 < found[0] < 1

    def test_joints_of_another_video_are_refused_before_faces_are_looked_for(
        self, fantasytalking_graph, monkeypatch
    ):
        with pytest.raises(ValueError, match=r"holds 3 frame\(s\) and the video 2"):
            self.measured(
                fantasytalking_graph, monkeypatch, [None] * 2, body_joints=pose_keypoints([(80, 80)] * 3)
            )
        with pytest.raises(ValueError, match="shows nobody at the face in any of 2 frames"):
            self.measured(
                fantasytalking_graph, monkeypatch, [(0, 0)] * 2, body_joints=pose_keypoints([(380, 290)] * 2)
            )

    def test_bad_input(self, fantasytalking_graph, monkeypatch):
        with pytest.raises(ValueError, match="at least 2 are needed"):
            self.measured(fantasytalking_graph, monkeypatch, [None, (0, 0)])
        with pytest.raises(ValueError, match="body_motion is 'feet'"):
            self.measured(fantasytalking_graph, monkeypatch, [(0, 0)] * 2, body_motion="feet")
        monkeypatch.undo()
        with pytest.raises(ValueError, match="Load Face Detector"):
            fantasytalking_graph.run("TP_MotionIntensityFromVideo", frames=torch.zeros(2, 8, 8, 3))


class FilmWithPose:
    """In place of a loader and of pose and face nodes of other packs."""

    RETURN_TYPES = ("IMAGE", "FACE_LANDMARKS", "POSE_KEYPOINT")
    FUNCTION = "give"
    PLACES = tuple((80 + 4.0 * (step % 3), 80.0) for step in range(6))

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def give(self):
        points = face_points((0, 0))
        face = {"landmarks_xy": points[:, :2], "landmarks_3d": points}
        found = {"frames": [[face]] * len(self.PLACES), "image_size": (300, 400)}
        return torch.zeros(len(self.PLACES), 300, 400, 3), found, pose_keypoints(self.PLACES)


class ShowText:
    RETURN_TYPES = ()
    FUNCTION = "show"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"forceInput": True})}}

    def show(self, text):
        return {"ui": {"text": [text]}}


class TestPoseOfOtherPacks:
    """A POSE_KEYPOINT in the headless runner, which knows no node that gives one."""

    MEASURING: ClassVar = {
        "frames": ["1", 0],
        "face_landmarks": ["1", 1],
        "fps": 25.0,
        "body_motion": "from the neck",
        "stand_in": "none",
        "face_index": -1,
    }

    def shown(self, **inputs):
        graph = {
            "1": {"class_type": "FilmWithPose", "inputs": {}},
            "2": {"class_type": "TP_MotionIntensityFromVideo", "inputs": {**self.MEASURING, **inputs}},
            "3": {"class_type": "ShowText", "inputs": {"text": ["2", 3]}},
        }
        classes = {**NODE_CLASS_MAPPINGS, "FilmWithPose": FilmWithPose, "ShowText": ShowText}
        return GraphExecutor(classes).run(graph).ui["3"]["text"][0]

    def test_is_measured_where_it_is_connected(self):
        assert "neck and shoulders, all seen in 6 of 6 frames" in self.shown(body_joints=["1", 2])

    def test_may_stay_open(self):
        assert "measured by the neck's place" in self.shown()

    def test_nothing_else_can_be_connected(self):
        with pytest.raises(GraphValidationError, match="body_joints"):
            self.shown(body_joints=["1", 1])


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
