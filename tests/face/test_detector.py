"""Decoding, merging and tiling, without the network."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.face.detector import (
    Detections,
    anchor_centres,
    detect_faces,
    intersection_over_union,
    letterbox,
    merge_overlapping,
    tile_corners,
)


def test_anchors_cover_the_canvas():
    anchors = anchor_centres()
    assert anchors.shape == (896, 2)
    np.testing.assert_allclose(anchors[0], 0.5 / 16)
    np.testing.assert_allclose(anchors[1], 0.5 / 16)
    np.testing.assert_allclose(anchors[2], [1.5 / 16, 0.5 / 16])  # x runs first
    np.testing.assert_allclose(anchors[512], 0.5 / 8)
    np.testing.assert_allclose(anchors.mean(axis=0), 0.5)


@given(st.integers(1, 900), st.integers(1, 900))
def test_letterbox_maps_frame_to_canvas(width, height):
    frame = np.full((height, width, 3), 255, np.uint8)
    canvas, scale, offset = letterbox(frame)
    assert canvas.shape == (1, 128, 128, 3)
    bright = np.argwhere(canvas[0, ..., 0] > 0)
    low, high = bright.min(axis=0)[::-1], bright.max(axis=0)[::-1] + 1
    np.testing.assert_allclose(low, offset, atol=1)
    np.testing.assert_allclose(high, offset + scale * np.array([width, height]), atol=1.01)


def one_face_network(centre, size, logit=4.0):
    """A stand-in network that reports one face at `centre`, of side `size`, both in canvas pixels."""

    def network(canvas):
        regressors, logits = np.zeros((896, 16), np.float32), np.full(896, -1000.0, np.float32)
        anchor = anchor_centres()[100] * 128
        regressors[100, :2] = np.array(centre) - anchor
        regressors[100, 2:4] = size
        regressors[100, 4:6] = np.array(centre) - anchor + (-5, -3)
        logits[100] = logit
        return regressors, logits

    return network


def test_detection_comes_back_in_frame_pixels():
    frame = np.zeros((360, 640, 3), np.uint8)  # five frame pixels a canvas pixel, 28 rows of border above
    found = detect_faces(frame, one_face_network((64, 64), 20))
    np.testing.assert_allclose(found.boxes[0], [320 - 50, 180 - 50, 100, 100])
    np.testing.assert_allclose(found.keypoints[0, 0], [320 - 25, 180 - 15])
    assert found.scores[0] == pytest.approx(1 / (1 + np.exp(-4)))


def test_unsure_detections_are_dropped():
    assert len(detect_faces(np.zeros((64, 64, 3), np.uint8), one_face_network((64, 64), 20, logit=-0.1))) == 0


def test_overlaps():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 5, 5], [0, 0, 0, 0]], float)
    np.testing.assert_allclose(intersection_over_union(boxes[0], boxes), [1, 50 / 150, 0, 0])


def test_merging_weighs_by_score():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10], [50, 50, 8, 8]], float)
    merged = merge_overlapping(Detections(boxes, np.zeros((3, 6, 2)), np.array([0.9, 0.6, 0.7])))
    assert len(merged) == 2
    assert merged.boxes[0, 0] == pytest.approx(0.6 / 1.5)
    assert merged.scores.tolist() == [0.9, 0.7]


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(96, 700))
def test_tiles_cover_every_pixel_and_overlap_by_half(width, height, side):
    corners = tile_corners(width, height, side)
    for axis, length in ((0, width), (1, height)):
        starts = sorted({corner[axis] for corner in corners})
        assert starts[0] == 0
        assert starts[-1] + side >= length
        assert all(0 <= later - earlier <= side // 2 + 1 for earlier, later in itertools.pairwise(starts))
