"""The inverse warp: exact at rest, right for a known motion, hole-free, still at the edges."""

import numpy as np
import pytest
from talking_portrait.core_models.rendering import warp

CORNERS = np.array([[10, 10], [70, 10], [70, 50], [10, 50]], np.float32)
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
PICTURE = np.random.default_rng(3).integers(0, 256, (60, 80, 3)).astype(np.uint8)


def quad_mesh(triangles=TRIANGLES, source=CORNERS) -> warp.TriangleMesh:
    count = len(triangles)
    return warp.TriangleMesh(triangles, np.ones(count, np.float32), np.ones(count, np.float32), source)


def grid(step: int = 1, size=(80, 60), outline=CORNERS) -> warp.WarpGrid:
    return warp.make_grid(np.array(outline, np.float32), 90.0 * step, 1.0, size)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_mesh_at_rest_maps_every_pixel_to_itself(step):
    area = grid(step)
    displacement = warp.source_displacement(quad_mesh(), CORNERS, np.zeros(4), area)
    np.testing.assert_allclose(displacement, 0, atol=1e-4)
    canvas = PICTURE[area.region_slices].copy()
    texture = warp.make_texture(PICTURE, area, cubic=True)
    warp.resample(texture, warp.enlarged(displacement, area, texture), area, canvas)
    np.testing.assert_array_equal(canvas, PICTURE[area.region_slices])


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_shifted_mesh_fetches_from_where_it_was(step):
    area = grid(step)
    displacement = warp.source_displacement(quad_mesh(), CORNERS + np.array((3, -2)), np.zeros(4), area)
    middle = displacement[displacement.shape[0] // 2, displacement.shape[1] // 2]
    np.testing.assert_allclose(middle, (-3, 2), atol=1e-3)
    for cubic in (True, False):
        texture = warp.make_texture(PICTURE, area, cubic)
        source = texture.origin + warp.enlarged(displacement, area, texture)[20, 30] / texture.density
        np.testing.assert_allclose(source, area.origin + np.array((27, 22)), atol=1e-2)


def test_nearer_layers_cover_farther_ones():
    source = np.concatenate([CORNERS, CORNERS]).astype(np.float32)
    triangles = np.concatenate([TRIANGLES, TRIANGLES + 4])
    points = source.copy()
    points[4:, 0] += 4
    for upper_layer, expected in ((2.0, -4.0), (0.0, 0.0)):
        layers = np.array([1, 1, upper_layer, upper_layer], np.float32)
        mesh = warp.TriangleMesh(triangles, np.ones(4, np.float32), layers, source)
        displacement = warp.source_displacement(mesh, points, np.zeros(8), grid())
        assert displacement[20, 30, 0] == pytest.approx(expected, abs=1e-3)


def test_a_hole_is_filled_from_around_it():
    inner = np.array([[30, 20], [50, 20], [50, 40], [30, 40]], np.float32)
    points = np.concatenate([CORNERS, inner])
    frame = [(0, 1, 5), (0, 5, 4), (1, 2, 6), (1, 6, 5), (2, 3, 7), (2, 7, 6), (3, 0, 4), (3, 4, 7)]
    mesh = quad_mesh(np.array(frame, np.int32), points)
    displacement = warp.source_displacement(mesh, points + np.array((2, 0)), np.zeros(8), grid())
    assert displacement[20, 30, 0] == pytest.approx(-2, abs=0.2)


def test_flipped_triangles_are_not_drawn():
    displacement = warp.source_displacement(quad_mesh(), CORNERS[:, ::-1] * (1, 1) + 100, np.zeros(4), grid())
    np.testing.assert_allclose(displacement, 0, atol=1e-6)


def test_drawable_tells_flipped_triangles_from_degenerate_ones():
    areas = np.array([50.0, 60.0, 0.0, -40.0, 55.0])
    np.testing.assert_array_equal(warp.drawable_in_photo(areas, np.ones(5)), [True, True, True, False, True])


def test_motion_fades_at_the_pictures_edges():
    whole = np.array([[-20, -20], [100, -20], [100, 80], [-20, 80]], np.float32)
    area = warp.make_grid(whole, 90.0, 100.0, (80, 60))
    assert area.inside[0].max() == area.inside[:, 0].max() == area.inside[-1].max() == 0
    assert area.inside[30, 40, 0] == 1


def test_bands_hold_every_moving_pixel():
    diamond = np.array([[40, 5], [75, 30], [40, 55], [5, 30]], np.float32)
    area = grid(outline=diamond)
    covered = np.zeros(area.region, bool)
    for band in area.bands:
        covered[band] = True
    assert covered[area.moving].all()
    assert not covered.all()


def test_a_face_outside_the_picture_is_refused():
    with pytest.raises(ValueError, match="outside the picture of 80 x 60"):
        grid(outline=CORNERS + 500)


def smooth_picture() -> np.ndarray:
    y, x = np.mgrid[:60, :80]
    waves = np.stack([np.sin(x / 3), np.cos(y / 2.5), np.sin((x + y) / 4)], axis=2)
    return np.rint(127 + 90 * waves).astype(np.uint8)


def shifted(picture: np.ndarray, shift: tuple[float, float], cubic: bool) -> np.ndarray:
    area = grid(2)
    displacement = np.broadcast_to(np.array(shift, np.float32), (*area.shape, 2)).copy()
    canvas = np.zeros((*area.region, 3), np.uint8)
    texture = warp.make_texture(picture, area, cubic)
    warp.resample(texture, warp.enlarged(displacement, area, texture), area, canvas)
    return canvas.astype(int)


def test_the_dense_texture_comes_nearer_to_cubic_than_linear(monkeypatch):
    dense = shifted(smooth_picture(), (0.5, 0.25), cubic=True)
    linear = shifted(smooth_picture(), (0.5, 0.25), cubic=False)
    monkeypatch.setattr(warp, "DENSE_LIMIT", 0)
    cubic = shifted(smooth_picture(), (0.5, 0.25), cubic=True)
    assert np.abs(dense - cubic).mean() < 0.5 * np.abs(linear - cubic).mean()


@pytest.mark.parametrize("cubic", [True, False])
def test_a_shift_by_whole_pixels_is_exact(cubic):
    area = grid(2)
    rows, columns = area.region_slices
    moved = PICTURE[rows.start + 2 : rows.stop + 2, columns.start - 3 : columns.stop - 3]
    np.testing.assert_array_equal(shifted(PICTURE, (-3, 2), cubic), moved)
