"""Frames of the motion space's training: landmarks, pose, drawing of samples, files, and where frames come from."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from talking_portrait.core_models.face.landmarker import DetectedFace, landmarks_box
from talking_portrait.core_models.face.pose import project_shape
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.motion.keypoint_geometry import extractor_rotation, keypoint_rotation
from talking_portrait.core_models.types import BLENDSHAPE_NAMES, HeadPose
from talking_portrait.core_models.video_file import write_video
from talking_portrait.training import takin_ada_frame_sources as sources
from talking_portrait.training import takin_ada_frames as made
from talking_portrait.training.takin_ada_frames import FrameSampler, FrameSet
from talking_portrait.training.takin_ada_losses import GUIDING_LANDMARKS


def frames(persons: int = 3, clips: int = 2, each: int = 4, size: int = 8) -> FrameSet:
    rng = np.random.default_rng(0)
    count = persons * clips * each
    return FrameSet(
        pictures=rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        landmarks=rng.normal(size=(count, 10, 2)).astype(np.float32),
        angles=rng.normal(size=(count, 3)).astype(np.float32),
        openings=rng.random((count, 3), np.float32),
        persons=np.repeat(np.arange(persons), clips * each),
        clips=np.repeat(np.arange(persons * clips), each),
    )


def test_each_guiding_landmark_has_its_own_point_of_the_mesh():
    assert set(made.MESH_OF_68) == set(GUIDING_LANDMARKS)
    assert len(set(made.GUIDING_MESH_POINTS)) == 10
    assert made.GUIDING_MESH_POINTS == (33, 133, 159, 362, 263, 386, 61, 291, 0, 17)


def test_guiding_points_lie_on_the_face_as_their_names_say():
    x, y = (
        canonical_face().vertices[list(made.GUIDING_MESH_POINTS), :2].T
    )  # y up; the subject's right is at x < 0
    assert x[0] < x[1] < 0 < x[3] < x[4]
    assert x[0] < x[2] < x[1] < x[3] < x[5] < x[4]
    assert y[2] > max(y[0], y[1])
    assert y[5] > max(y[3], y[4])
    assert x[6] < 0 < x[7]
    assert np.allclose(x[8:], 0, atol=1e-3)
    assert y[8] > max(y[6], y[7])
    assert min(y[6], y[7]) > y[9]
    assert y[:6].min() > y[6:].max()


def test_landmarks_run_from_edge_to_edge():
    points = np.zeros((1, 478, 3))
    points[0, 33] = [-0.5, 31.5, 0]
    points[0, 133] = [63.5, 0, 0]
    found = made.guiding_landmarks(points, 64)
    np.testing.assert_allclose(found[0, 0], [-1, 0])
    np.testing.assert_allclose(found[0, 1], [1, 1 / 64 - 1])


def test_pose_turns_the_same_head_in_either_convention():
    rotation = np.array([[10.0, -20.0, 5.0], [0, 0, 0]])
    found = made.extractor_degrees(rotation)
    np.testing.assert_allclose(extractor_rotation(found), keypoint_rotation(rotation), atol=1e-6)
    np.testing.assert_allclose(found[1], 0, atol=1e-6)


def test_samples_are_of_one_person_and_the_first_two_of_one_clip():
    data = frames()
    source, driving, further = FrameSampler(data).indices(200, 0, 0).T
    assert (data.clips[source] == data.clips[driving]).all()
    assert (source != driving).all()
    assert (data.persons[source] == data.persons[further]).all()
    assert (data.clips[source] != data.clips[further]).any()
    assert set(data.persons[source]) == {0, 1, 2}


def test_further_frames_have_another_expression():
    data = frames()
    source, driving, further = FrameSampler(data).indices(300, 0, 0).T
    away = [
        np.abs(data.openings[index] - data.openings[source]).sum(axis=1).mean()
        for index in (driving, further)
    ]
    assert away[1] > 1.1 * away[0]


def test_batches_are_functions_of_seed_and_step():
    sampler = FrameSampler(frames())
    first, again = sampler.batch(3, 1, 5), sampler.batch(3, 1, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(sampler.indices(9, 1, 5), sampler.indices(9, 1, 6))
    assert not np.array_equal(sampler.indices(9, 1, 5), sampler.indices(9, 2, 5))
    index = sampler.indices(3, 1, 5)
    expected = sampler.frames.pictures[index[:, 1]].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(first.driving.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(first.source_landmarks.numpy(), sampler.frames.landmarks[index[:, 0]])
    np.testing.assert_array_equal(first.driving_angles.numpy(), sampler.frames.angles[index[:, 1]])


def test_clips_of_one_frame_are_never_drawn():
    data = frames(1, 2, 3)
    lone = replace(data, clips=np.array([0, 0, 0, 1, 2, 3]))
    assert FrameSampler(lone).indices(30, 0, 0)[:, :2].max() <= 2
    with pytest.raises(ValueError, match="no clip has two frames"):
        FrameSampler(replace(data, clips=np.arange(6)))


def test_frames_survive_a_file(tmp_path):
    data, path = frames(), tmp_path / "frames.safetensors"
    made.write_frames(data, path)
    again = made.read_frames(path)
    for name, values in vars(data).items():
        np.testing.assert_array_equal(values, getattr(again, name))
    with pytest.raises(FileNotFoundError):
        made.read_frames(tmp_path / "other.safetensors")
    from safetensors.numpy import save_file

    save_file({"pictures": data.pictures.copy()}, str(path))
    with pytest.raises(ValueError, match="holds no frames"):
        made.read_frames(path)


def test_persons_can_be_chosen_and_sets_joined():
    data = frames()
    chosen = data.of_persons([2, 0])
    assert set(chosen.persons.tolist()) == {0, 2}
    assert len(made.joined_frames([chosen, data])) == len(chosen) + len(data)
    for nothing in (lambda: data.of_persons([9]), lambda: made.joined_frames([])):
        with pytest.raises(ValueError, match=r"FrameSet|no frames"):
            nothing()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": np.zeros((24, 8, 8, 3), np.float32)}, "FrameSet.pictures is float32"),
        ({"landmarks": np.zeros((24, 9, 2), np.float32)}, "FrameSet.landmarks"),
        ({"angles": np.full((24, 3), np.nan, np.float32)}, "FrameSet.angles holds NaN"),
        ({"persons": np.zeros(24)}, "FrameSet.persons is float64"),
        ({"clips": np.zeros(24, np.int64)}, "more than one person"),
    ],
)
def test_wrong_frames_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(frames(), **change)


def test_made_heads_give_frames_with_known_landmarks_and_pose():
    data = sources.made_frames([5], 1, 3, 64, seed=0)
    assert len(data) == 3
    assert data.size == 64
    assert set(data.persons.tolist()) == {5}
    assert np.abs(data.landmarks).max() < 1
    assert np.ptp(data.angles, axis=0).max() > 0.5
    eyes, mouth = data.landmarks[:, :6, 1].mean(axis=1), data.landmarks[:, 6:, 1].mean(axis=1)
    assert (eyes < mouth).all()
    still = sources.made_movement(4, [0, 5, 0], still=True).motion
    moving = sources.made_movement(4, [0, 5, 0]).motion
    assert not still.rotation.any()
    np.testing.assert_array_equal(still.expression, moving.expression)


def test_too_few_made_frames_are_refused():
    for identities, clips, count in (([], 1, 2), ([1], 0, 2), ([1], 1, 1)):
        with pytest.raises(ValueError, match="expected at least 1, 1 and 2"):
            sources.made_frames(identities, clips, count, 64, 0)


class KnownFace:
    """A landmarker that finds one face in every frame that is not nearly black: in the middle, or far to the right
    where that is bright."""

    def detect(self, frame, max_faces=10, at_least=1, search_tiles=True):
        if frame.max() < 8:
            return []
        points = np.zeros((478, 3))
        across = 0.5 if frame[:, -8:].max() < 230 else 0.95
        place = HeadPose((5, 12, -8), (across * frame.shape[1], -frame.shape[0] / 2, 0), 2.0)
        points[:468] = project_shape(canonical_face().vertices, place)
        return [DetectedFace(points, np.zeros(len(BLENDSHAPE_NAMES)), 1.0, landmarks_box(points[:468]))]

    def track(self, frame, previous):
        return next(iter(self.detect(frame)), None)


def film(path, levels):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [np.full((96, 128, 3), level, np.uint8) for level in levels], 5)


def test_videos_give_frames_with_landmarks_and_fitted_pose(tmp_path, caplog):
    film(tmp_path / "anna" / "a.mp4", [80, 120, 160])
    film(tmp_path / "anna" / "b.mp4", [90, 90])
    film(tmp_path / "c.mp4", [0, 100, 100, 0, 100])
    film(tmp_path / "dark.mp4", [0, 0, 0])
    (tmp_path / "notes.txt").write_text("no film")
    ticks = []
    data = sources.video_frames(tmp_path, KnownFace(), 32, progress=lambda *at: ticks.append(at))
    assert np.bincount(data.persons).tolist() == [5, 2]  # the face that is seen once is no clip
    assert [int((data.clips == clip).sum()) for clip in np.unique(data.clips)] == [3, 2, 2]
    assert data.size == 32
    np.testing.assert_allclose(data.angles, np.tile(made.extractor_degrees([[5, 12, -8]]), (7, 1)), atol=0.1)
    assert np.abs(data.landmarks).max() < 1
    middle = data.pictures[:, 16, 16, 0].astype(int)
    assert np.abs(middle[:3] - [80, 120, 160]).max() < 6
    assert "dark.mp4 is left out" in caplog.text
    assert ticks[-1] == (5, 5)


def test_a_clip_ends_where_the_face_leaves_its_place_or_is_missing(tmp_path):
    film(tmp_path / "a.mp4", [100, 100, 250, 250, 250, 0, 250, 250])
    film(tmp_path / "b.mp4", [90, 90])
    data = sources.video_frames(tmp_path, KnownFace(), 32)
    assert [int((data.clips == clip).sum()) for clip in np.unique(data.clips)] == [2, 3, 2, 2]
    assert np.unique(data.clips).tolist() == [0, 1, 2, 3]
    assert data.persons.tolist() == [0] * 7 + [1] * 2
    assert np.abs(data.landmarks).max() < 1  # also where it went: each clip has its own square


def test_at_most_so_many_frames_of_a_video_are_taken(tmp_path):
    film(tmp_path / "a.mp4", [100] * 6)
    assert len(sources.video_frames(tmp_path, KnownFace(), 32, longest=4)) == 4


def test_frames_share_nothing_writeable_and_leave_their_input_alone():
    data = frames()
    pictures = data.pictures.copy()
    own = replace(data, pictures=pictures)
    assert pictures.flags.writeable
    assert not own.pictures.flags.writeable
    pictures[:] = 0
    np.testing.assert_array_equal(own.pictures, data.pictures)
    assert replace(own).pictures is own.pictures  # read-only ones are not copied again


def test_parts_can_be_joined_as_they_are_made():
    data = frames()
    parts = [data.of_persons([person]) for person in range(3)]
    joined = made.joined_frames((part for part in parts), 24)
    for name, values in vars(data).items():
        np.testing.assert_array_equal(values, getattr(joined, name))
        assert not getattr(joined, name).flags.writeable
    for wrong, count, message in (
        (parts, 20, "do(es)? not go with 16 of 20"),
        (parts, 25, "there are 24 frames to join, expected 25"),
        ([*parts, frames(size=16)], None, "of 16 px does not go with 24 of 48 frames of 8 px"),
    ):
        with pytest.raises(ValueError, match=message):
            made.joined_frames(iter(wrong), count)


def test_large_made_frames_are_enlarged_from_256_pixels():
    assert [sources.made_drawn_size(size) for size in (32, 64, 128, 256, 512)] == [64, 128, 256, 256, 256]
    large = sources.made_frames([5], 1, 2, 512, seed=0)
    small = sources.made_frames([5], 1, 2, 128, seed=0)
    assert large.size == 512
    np.testing.assert_allclose(large.landmarks, small.landmarks, atol=0.02)
    reduced = np.stack([cv2.resize(one, (128, 128), interpolation=cv2.INTER_AREA) for one in large.pictures])
    assert np.abs(reduced.astype(float) - small.pictures).mean() < 3


def test_a_folder_without_faces_is_refused(tmp_path):
    film(tmp_path / "dark.mp4", [0, 0, 0])
    with pytest.raises(ValueError, match="gave frames: the log names the reason"):
        sources.video_frames(tmp_path, KnownFace(), 32)
