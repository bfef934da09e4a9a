"""Nodes around LivePortrait: what passes through, what is refused, and what a missing file says."""

from dataclasses import replace

import numpy as np
import pytest
from talking_portrait.core_models.types import (
    BLENDSHAPE_INDEX,
    IMPLICIT_KEYPOINTS,
    FaceMotion,
    ModelHandle,
    PortraitVideo,
    RendererModels,
)
from talking_portrait.runtime import renderer_models, weight_files
from talking_portrait.runtime.weights import WeightNotFoundError

MESH = RendererModels()
HANDLE = ModelHandle(name="made", path="nowhere")
LIVEPORTRAIT = RendererModels("liveportrait", HANDLE, HANDLE, HANDLE, HANDLE)
MESH_CHOICE = "mesh (embedded, no weights)"
STITCH_DEFAULTS = {
    "mode": "relative",
    "region": "all",
    "stitching": True,
    "strength": 1.0,
    "fit_expression": False,
    "close_lips": False,
    "eye_retargeting": False,
    "lip_retargeting": False,
    "keep_motion": False,
    "keep_source_eyes": False,
    "smoothing": 3e-7,
}


def node(nodes, name):
    return nodes[name]()


class TestLoad:
    def load(self, nodes, **settings):
        defaults = {"precision": "auto", "compile": False, "download_if_missing": False}
        return node(nodes, "TP_LoadLivePortrait").load(**{**defaults, **settings})[0]

    def test_the_mesh_needs_nothing(self, nodes):
        assert self.load(nodes, model=MESH_CHOICE) == MESH
        assert MESH.space == "blendshapes"

    def test_missing_files_are_named_with_the_command_that_fetches_them(self, nodes, monkeypatch):
        def nowhere(name, explicit=None):
            raise WeightNotFoundError(name)

        monkeypatch.setattr(weight_files, "find_weight", nowhere)
        with pytest.raises(
            WeightNotFoundError, match="talking-portrait weights fetch liveportrait'"
        ) as missing:
            self.load(nodes, model="LivePortrait")
        for part in renderer_models.LIVEPORTRAIT_ROWS:
            assert part in str(missing.value)
        assert "mesh renderer" in str(missing.value)

    @pytest.mark.parametrize("which", ["", "_pth"])
    def test_either_layout_will_do(self, nodes, monkeypatch, tmp_path, which):
        def find(name, explicit=None):
            if name.endswith("_pth") != bool(which):
                raise WeightNotFoundError(name)
            return tmp_path / name

        monkeypatch.setattr(weight_files, "find_weight", find)
        models = self.load(nodes, model="LivePortrait", precision="bfloat16", compile=True)
        assert models.space == IMPLICIT_KEYPOINTS
        assert models.frame_generator.path.endswith(f"liveportrait_warping_module{which}")
        assert models.frame_generator.further_paths[0].endswith(f"liveportrait_spade_generator{which}")
        assert models.frame_generator.dtype == "bfloat16"
        assert models.motion_extractor.dtype == "float32"
        plain = self.load(nodes, model="LivePortrait", precision="bfloat16")
        assert plain.frame_generator != models.frame_generator, "compiled networks are kept apart"

    def test_every_row_is_in_the_manifest(self):
        from talking_portrait.weights_manifest.manifest import weight_row

        for names in renderer_models.LIVEPORTRAIT_ROWS.values():
            for name in names:
                assert weight_row(name).name == name

    def test_fetching_shows_one_bar_that_never_goes_back(self, monkeypatch, tmp_path):
        def nowhere(name, explicit=None):
            raise WeightNotFoundError(name)

        def fetched(name, progress):
            for done in (0, 50, 100):
                progress(done, 100)
            return tmp_path / name

        seen = []
        monkeypatch.setattr(weight_files, "find_weight", nowhere)
        monkeypatch.setattr(weight_files, "fetch_weight", fetched)
        renderer_models.liveportrait_models(
            download=True, progress=lambda done, total: seen.append(done / total)
        )
        assert seen == sorted(seen)
        assert seen[-1] == 1.0

    def test_unknown_precision(self):
        with pytest.raises(ValueError, match="precision is 'int8'"):
            renderer_models.chosen_precision("int8")


class TestPassingThrough:
    def test_stitch_leaves_motion_for_the_mesh(self, nodes, astronaut_portrait, talking_motion):
        (motion,) = node(nodes, "TP_Stitch").fit(talking_motion, astronaut_portrait, MESH, **STITCH_DEFAULTS)
        assert motion is talking_motion

    def test_retarget_leaves_motion_for_the_mesh(self, nodes, astronaut_portrait, talking_motion):
        (motion,) = node(nodes, "TP_RetargetMotion").retarget(talking_motion, astronaut_portrait, MESH, 1.0)
        assert motion is talking_motion

    def test_stitch_refuses_the_other_space(self, nodes, astronaut_portrait, talking_motion):
        with pytest.raises(ValueError, match="Retarget Motion"):
            node(nodes, "TP_Stitch").fit(talking_motion, astronaut_portrait, LIVEPORTRAIT, **STITCH_DEFAULTS)

    def test_the_mesh_refuses_implicit_keypoints(self, nodes, astronaut_portrait):
        motion = FaceMotion.at_rest(2, 25.0, IMPLICIT_KEYPOINTS)
        with pytest.raises(ValueError, match="choose LivePortrait"):
            node(nodes, "TP_WarpingRenderer").render(
                astronaut_portrait, motion, expression_strength=1.0, head_strength=1.0, interpolation="linear"
            )


class TestRetarget:
    def test_speech_opens_and_closes_the_lips(self, nodes, astronaut_portrait, talking_motion):
        retarget = node(nodes, "TP_RetargetMotion").retarget
        (motion,) = retarget(talking_motion, astronaut_portrait, LIVEPORTRAIT, 1.0)
        assert motion.space == IMPLICIT_KEYPOINTS
        lower_lip = motion.expression.reshape(-1, 21, 3)[:, 19, 1]
        jaw = talking_motion.blendshape("jawOpen")
        assert np.corrcoef(lower_lip, jaw)[0, 1] > 0.99
        np.testing.assert_allclose(motion.rotation, talking_motion.rotation, atol=1e-4)
        assert motion.openings[5, 0] < 0.1 < motion.openings[0, 0], "the blink shows in the ratios"

    def test_lips_that_are_held_together_stay_together(self, nodes, astronaut_portrait, talking_motion):
        expression = np.array(talking_motion.expression)
        expression[:, BLENDSHAPE_INDEX["mouthClose"]] = expression[:, BLENDSHAPE_INDEX["jawOpen"]]
        closed = replace(talking_motion, expression=expression)
        retarget = node(nodes, "TP_RetargetMotion").retarget
        (spoken,) = retarget(talking_motion, astronaut_portrait, LIVEPORTRAIT, 1.0)
        (shut,) = retarget(closed, astronaut_portrait, LIVEPORTRAIT, 1.0)
        open_most = np.abs(spoken.expression.reshape(-1, 21, 3)[:, 19, 1]).max()
        assert np.abs(shut.expression.reshape(-1, 21, 3)[:, 19, 1]).max() < 0.1 * open_most

    def test_calibration_that_is_not_there(self, nodes, host_folders, astronaut_portrait, talking_motion):
        with pytest.raises(OSError, match=r"nothing\.json"):
            node(nodes, "TP_RetargetMotion").retarget(
                talking_motion, astronaut_portrait, LIVEPORTRAIT, 1.0, "nothing.json"
            )


class TestEditor:
    def edit(self, nodes, **settings):
        inputs = nodes["TP_ExpressionEditor"].INPUT_TYPES()["required"]
        defaults = {name: options["default"] for name, (_, options) in inputs.items()}
        return node(nodes, "TP_ExpressionEditor").edit(**{**defaults, **settings})

    def test_a_still_smile(self, nodes):
        motion, fps = self.edit(nodes, smile=1.0)
        assert (motion.frame_count, fps) == (1, 25.0)
        assert motion.blendshape("mouthSmileLeft")[0] > 0.5

    def test_in_liveportraits_space(self, nodes):
        motion, _ = self.edit(nodes, smile=1.0, renderer=LIVEPORTRAIT)
        assert motion.space == IMPLICIT_KEYPOINTS
        np.testing.assert_allclose(motion.expression.reshape(21, 3)[14, 1], -0.02, atol=1e-6)

    def test_added_onto_speech(self, nodes, talking_motion):
        motion, fps = self.edit(nodes, smile=1.0, yaw=10.0, motion=talking_motion)
        np.testing.assert_allclose(
            motion.blendshape("jawOpen"), talking_motion.blendshape("jawOpen"), atol=1e-6
        )
        np.testing.assert_allclose(motion.rotation[:, 1] - talking_motion.rotation[:, 1], 10, atol=1e-3)
        assert fps == talking_motion.fps

    def test_key_frames_take_the_place_of_sliders(self, nodes):
        motion, _ = self.edit(nodes, smile=1.0, keyframes="0: neutral, 1: blink=1", duration=1.0)
        assert motion.blendshape("mouthSmileLeft").max() == 0
        assert motion.blendshape("eyeBlinkLeft")[-1] > 0.9
        assert motion.frame_count == 25

    def test_a_motion_in_another_space_than_the_renderers(self, nodes, talking_motion):
        with pytest.raises(ValueError, match="Retarget Motion"):
            self.edit(nodes, motion=talking_motion, renderer=LIVEPORTRAIT)


class TestRegionMixer:
    GATES = dict.fromkeys(("lips", "jaw", "eyes", "brows", "cheeks"), 0.0) | {"pose": 1.0}

    def test_third_and_fourth_lie_on_top(self, nodes, talking_motion):
        still = FaceMotion.at_rest(12, 25.0)
        turned = replace(still, rotation=np.full((12, 3), 5.0))
        mix = node(nodes, "TP_MixMotion").mix
        (motion,) = mix(talking_motion, turned, third=still, third_gates="eyes 1", **self.GATES)
        np.testing.assert_allclose(motion.rotation, 5.0, atol=1e-4)
        assert motion.blendshape("eyeBlinkLeft").max() == 0
        np.testing.assert_allclose(motion.blendshape("jawOpen"), talking_motion.blendshape("jawOpen"))

    def test_gates_over_time(self, nodes, talking_motion):
        turned = replace(FaceMotion.at_rest(12, 25.0), rotation=np.full((12, 3), 20.0))
        base = FaceMotion.at_rest(12, 25.0)
        (motion,) = node(nodes, "TP_MixMotion").mix(
            base, turned, gates_over_time="0: pose 0, 0.4: pose 1", **self.GATES
        )
        assert motion.rotation[0, 1] < 1 < 19 < motion.rotation[-1, 1]


def test_a_film_goes_through_the_mesh_and_the_video_has_its_length(
    nodes, host_folders, astronaut_portrait, talking_motion, tone
):
    from talking_portrait.core_models.video_file import read_video_frames

    film = PortraitVideo((astronaut_portrait,) * 3, 25.0)
    motion = replace(talking_motion, rotation=0 * talking_motion.rotation)
    result = node(nodes, "TP_RenderTalkingVideo").render(
        film,
        motion,
        "film",
        audio=tone(22050),
        expression_strength=1.0,
        head_strength=1.0,
        interpolation="linear",
    )
    (path,) = result["result"]
    assert sum(1 for _ in read_video_frames(path)) == 13, "half a second of sound at 25 frames per second"


class TestComfyUIFaces:
    def wire(self, landmarks, turns):
        """FACE_LANDMARKS of one face that opens its jaw, frame by frame."""
        frames = [
            [
                {
                    "landmarks_xy": np.asarray(landmarks)[:, :2],
                    "landmarks_3d": np.asarray(landmarks),
                    "blendshapes": {"jawOpen": turn},
                    "presence": 9.0,
                }
            ]
            for turn in turns
        ]
        return {"frames": frames, "image_size": (512, 512)}

    def read(self, nodes, frames, **settings):
        defaults = {
            "fps": 25.0,
            "on_missing_face": "error",
            "face_index": -1,
            "smoothing": 0,
            "calibrate": True,
        }
        return node(nodes, "TP_MotionFromVideo").read(frames, **{**defaults, **settings})[0]

    def test_they_drive_without_a_detector(self, nodes, image_of, astronaut, astronaut_landmarks):
        frames = image_of(astronaut, astronaut, astronaut)
        motion = self.read(
            nodes, frames, face_landmarks=self.wire(astronaut_landmarks.landmarks, (0.0, 0.3, 0.6))
        )
        np.testing.assert_allclose(motion.blendshape("jawOpen"), [0, 0.3, 0.6], atol=1e-6)

    def test_a_frame_without_a_face_follows_the_policy(self, nodes, image_of, astronaut, astronaut_landmarks):
        wire = self.wire(astronaut_landmarks.landmarks, (0.0, 0.3, 0.6))
        wire["frames"][1] = []
        frames = image_of(astronaut, astronaut, astronaut)
        motion = self.read(nodes, frames, face_landmarks=wire, on_missing_face="interpolate")
        np.testing.assert_allclose(motion.blendshape("jawOpen"), [0, 0.3, 0.6], atol=1e-6)
        with pytest.raises(ValueError, match="no face in frame 1"):
            self.read(nodes, frames, face_landmarks=wire)

    def test_fewer_frames_than_pictures(self, nodes, image_of, astronaut, astronaut_landmarks):
        wire = self.wire(astronaut_landmarks.landmarks, (0.0,))
        with pytest.raises(ValueError, match="hold 1 frame"):
            self.read(nodes, image_of(astronaut, astronaut), face_landmarks=wire)

    def test_nothing_connected(self, nodes, image_of, astronaut):
        with pytest.raises(ValueError, match="connect face_detector"):
            self.read(nodes, image_of(astronaut))
