"""Landmarks in JSON files."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.face.landmarks import FaceLandmarks, read_landmarks, write_landmarks


def points(seed=0):
    return np.random.default_rng(seed).uniform(-100, 4000, (478, 3))


@given(seed=st.integers(0, 10**6), presence=st.floats(0, 1))
def test_round_trip(tmp_path_factory, seed, presence):
    path = tmp_path_factory.mktemp("landmarks") / "face.json"
    values = np.random.default_rng(seed).uniform(0, 1, 52)
    write_landmarks(FaceLandmarks(points(seed), values, presence, (640, 480)), path)
    read = read_landmarks(path)
    np.testing.assert_allclose(read.landmarks, points(seed), atol=0.0052)
    np.testing.assert_allclose(read.blendshapes, values, atol=5.1e-5)
    assert read.presence == pytest.approx(presence, abs=5.1e-5)
    assert read.picture_size == (640, 480)


def test_bare_list_and_bare_object(tmp_path):
    path = tmp_path / "face.json"
    path.write_text(json.dumps(points().tolist()))
    assert read_landmarks(path).blendshapes is None
    path.write_text(json.dumps({"landmarks": points()[:468].tolist()}))
    assert read_landmarks(path).landmarks.shape == (478, 3)


def test_nothing_is_left_beside_the_file(tmp_path):
    write_landmarks(FaceLandmarks(points()), tmp_path / "face.json")
    assert [entry.name for entry in tmp_path.iterdir()] == ["face.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "cannot read face landmarks from"),
        ("[]", "expected 478"),
        ("[[1, 2, 3]]", "expected 478"),
        ('[["a", "b", "c"]]', "rows of three numbers"),
        ("[[1, 2], [3]]", "rows of three numbers"),
        ('{"points": []}', "key 'landmarks'"),
        ("17", "key 'landmarks'"),
        ('{"landmarks": [[1, NaN, 3]]}', "expected 478"),
        ("\udcff", "cannot read"),
    ],
)
def test_files_that_hold_no_landmarks(content, message, tmp_path):
    path = tmp_path / "face.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        read_landmarks(path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"presence": 2}, "presence is 2"),
        ({"picture_size": [0, 5]}, "picture_size"),
        ({"blendshapes": {"jawWide": 1}}, "jawWide"),
        ({"blendshapes": [1, 2]}, "cannot read"),
        ({"blendshapes": {"jawOpen": 7}}, "0..1"),
    ],
)
def test_bad_fields(extra, message, tmp_path):
    path = tmp_path / "face.json"
    path.write_text(json.dumps({"landmarks": points().tolist(), **extra}))
    with pytest.raises(ValueError, match=message):
        read_landmarks(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_landmarks(tmp_path / "none.json")


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(OSError):  # noqa: PT011  the system's own error differs
        write_landmarks(FaceLandmarks(points()), tmp_path / "no_such_folder" / "face.json")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        write_landmarks(FaceLandmarks(points()), tmp_path / "taken")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]
