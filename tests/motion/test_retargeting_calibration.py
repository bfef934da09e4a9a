"""Calibration against a renderer of known response: asked and read come together, and noise does no harm."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.motion.blendshape_retargeting import RetargetingBasis, default_basis
from talking_portrait.core_models.motion.retargeting_calibration import (
    GAIN_RANGE,
    RendererResponse,
    calibrated_basis,
    calibration_directions,
    load_basis,
    measure_response,
    save_basis,
)
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES

GROUPS = (
    *(("jawOpen",), ("mouthPucker",), ("mouthLeft",), ("browInnerUp",)),
    *(("mouthSmileLeft", "mouthSmileRight"), ("mouthUpperUpLeft", "mouthUpperUpRight")),
    *(("eyeBlinkLeft",), ("eyeBlinkRight",), ("eyeLookOutLeft",), ("eyeLookInRight",)),
    ("browDownLeft", "browDownRight"),
)
"""What the made-up reader knows, sides that go together in one; all other shapes always read 0."""
SEEN = tuple(name for names in GROUPS for name in names)
SHA = "0123456789abcdef" * 4


class World:
    """A renderer and a reader in one: a picture is a row of numbers, linear in the offsets, clipped to 0..1.

    The default rows of a group show as its shapes times a gain, and a little as the others.
    """

    def __init__(self, seed=0, noise=0.0, gains=(0.4, 2.2), crosstalk=0.06):
        rng = np.random.default_rng(seed)
        self.rng, self.noise = rng, noise
        self.rest = np.zeros(52)
        self.columns = [BLENDSHAPE_INDEX[name] for name in SEEN]
        shows = np.zeros((len(GROUPS), 52))
        for group, names in zip(shows, GROUPS, strict=True):
            group[[BLENDSHAPE_INDEX[name] for name in names]] = 1
        mixing = np.diag(rng.uniform(*gains, len(GROUPS))) + crosstalk * rng.normal(size=(len(GROUPS),) * 2)
        self.answer = np.linalg.pinv(shows @ default_basis().matrix.astype(float)) @ mixing @ shows

    def render(self, offsets):
        for row in offsets:
            levels = self.rest + row @ self.answer
            yield np.broadcast_to(levels[:, None, None], (52, 1, 3))

    def read(self, picture):
        reading = picture[:, 0, 0] + self.noise * self.rng.normal(size=52) * (self.answer.any(axis=0))
        return np.clip(reading, 0, 1)

    def responses(self, amplitude=0.5):
        return measure_response(
            self.render, self.read, calibration_directions(default_basis()), amplitude=amplitude
        )

    def error(self, basis, asked):
        """Root mean square of asked minus read over the shapes the reader knows, without noise."""
        read = np.clip(self.rest + asked @ basis.matrix.astype(float) @ self.answer, 0, 1)
        return float(np.sqrt(np.mean((read - asked)[:, self.columns] ** 2)))


def speech(frames=200, seed=1):
    """Coefficients as they come: both sides of the face nearly together."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((frames, 52))
    for names in GROUPS:
        rows[:, [BLENDSHAPE_INDEX[name] for name in names]] = rng.uniform(0, 0.6, (frames, 1))
    return rows


class TestDirections:
    def test_all_that_can_be_asked_for_and_nothing_twice(self):
        directions = calibration_directions(default_basis())
        lengths = np.linalg.norm(directions, axis=1)
        assert (lengths > 0).all()
        cosines = directions @ directions.T / np.outer(lengths, lengths)
        np.fill_diagonal(cosines, 0)
        assert np.abs(cosines).max() < 0.9999
        rest = default_basis().matrix - default_basis().matrix @ np.linalg.pinv(directions) @ directions
        assert np.abs(rest).max() < 1e-6

    def test_a_basis_of_zeros_leaves_the_sliders(self):
        empty = RetargetingBasis(np.zeros((52, 63)), "empty", "nothing")
        assert 10 < len(calibration_directions(empty)) < len(calibration_directions(default_basis()))


class TestMeasuring:
    def test_a_linear_world_is_found(self):
        world = World()
        world.rest[world.columns] = 0.5
        found = world.responses(amplitude=0.1)
        np.testing.assert_allclose(found.response, found.directions @ world.answer, atol=1e-4)
        assert found.measured.all()

    @settings(deadline=None, max_examples=30)
    @given(amplitude=st.floats(0.1, 1.0), seed=st.integers(0, 5))
    def test_readings_that_cannot_fall_below_zero_do_not_halve_the_response(self, amplitude, seed):
        world = World(seed, gains=(0.5, 0.9), crosstalk=0)
        found = world.responses(amplitude)
        expected = found.directions @ world.answer
        visible = (np.abs(expected) * amplitude > 0.03) & (np.abs(expected) * amplitude < 0.95)
        np.testing.assert_allclose(found.response[visible], expected[visible], atol=1e-4)

    def test_one_side_without_a_face_is_measured_by_the_other(self):
        world = World()
        world.rest[world.columns] = 0.5
        directions = calibration_directions(default_basis())[:3]
        whole = measure_response(world.render, world.read, directions, 0.1)
        hidden = iter([False, True, True, False, False, False, True])  # rest; + of 0 and 1; - of 2

        def read(picture):
            return None if next(hidden) else world.read(picture)

        partly = measure_response(world.render, read, directions, 0.1)
        np.testing.assert_allclose(partly.response, whole.response, atol=1e-4)
        assert partly.measured.tolist() == [True, True, True]

    def test_no_face_on_either_side(self):
        world = World()
        hidden = iter([False, True, False, True, False])
        found = measure_response(
            world.render,
            lambda picture: None if next(hidden) else world.read(picture),
            calibration_directions(default_basis())[:2],
        )
        assert found.measured.tolist() == [False, True]
        assert not found.response[0].any()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"directions": np.zeros((2, 52))}, r"directions have shape \(2, 52\)"),
            ({"directions": np.zeros((0, 63))}, "K at least 1"),
            ({"amplitude": 0}, "amplitude is 0"),
            ({"amplitude": float("nan")}, "amplitude is nan"),
            ({"render": lambda offsets: [np.zeros((52, 1, 3))]}, "gave 1 pictures for 5 offsets"),
            ({"read": lambda picture: None}, "no face is found in the portrait as it is rendered at rest"),
            ({"read": lambda picture: np.zeros(51)}, r"a reading has shape \(51,\)"),
            ({"read": lambda picture: np.full(52, np.nan)}, "finite coefficients"),
        ],
    )
    def test_what_is_wrong_is_said(self, changes, message):
        world = World()
        arguments = {"render": world.render, "read": world.read, "directions": np.ones((2, 63))}
        with pytest.raises(ValueError, match=message):
            measure_response(**{**arguments, **changes})

    def test_impossible_responses(self):
        good = {
            "directions": np.ones((2, 63)),
            "response": np.zeros((2, 52)),
            "measured": [True, True],
        }
        RendererResponse(**good)
        for name, values in (("response", np.zeros((2, 51))), ("measured", [True])):
            with pytest.raises(ValueError, match=f"RendererResponse.{name} has shape"):
                RendererResponse(**{**good, name: values})
        with pytest.raises(ValueError, match="NaN"):
            RendererResponse(**{**good, "response": np.full((2, 52), np.nan)})


class TestCalibration:
    @pytest.mark.parametrize("noise", [0.0, 0.005])
    @pytest.mark.parametrize("seed", range(4))
    def test_asked_and_read_come_together(self, seed, noise):
        world = World(seed, noise)
        calibrated = calibrated_basis(default_basis(), world.responses())
        before, after = (world.error(basis, speech()) for basis in (default_basis(), calibrated))
        assert after <= before / 5

    @settings(deadline=None, max_examples=25)
    @given(seed=st.integers(0, 100), noise=st.floats(0, 0.2))
    def test_jaw_open_stays_monotone_and_lips_still_meet(self, seed, noise):
        world = World(seed, noise)
        basis = calibrated_basis(default_basis(), world.responses())
        jaw, close = basis.row("jawOpen"), basis.row("mouthClose")
        assert jaw[3 * 19 + 1] > 0
        np.testing.assert_array_equal(jaw, -close)

    def test_the_read_jaw_rises_with_the_asked_one(self):
        world = World(3, 0.01)
        basis = calibrated_basis(default_basis(), world.responses())
        read = np.linspace(0, 1, 11)[:, None] * basis.row("jawOpen") @ world.answer
        assert (np.diff(read[:, BLENDSHAPE_INDEX["jawOpen"]]) > 0.08).all()

    @settings(deadline=None, max_examples=25)
    @given(seed=st.integers(0, 1000), scale=st.floats(0.1, 100))
    def test_noise_alone_cannot_blow_it_up(self, seed, scale):
        rng = np.random.default_rng(seed)
        directions = calibration_directions(default_basis())
        noise = RendererResponse(
            directions,
            scale * rng.normal(size=(len(directions), 52)),
            np.ones(len(directions), bool),
        )
        default, found = (
            basis.matrix.astype(float)
            for basis in (default_basis(), calibrated_basis(default_basis(), noise))
        )
        moves = default.any(axis=1)
        gains = (found * default).sum(axis=1)[moves] / (default**2).sum(axis=1)[moves]
        assert gains.min() >= GAIN_RANGE[0] - 1e-4
        assert gains.max() <= GAIN_RANGE[1] + 1e-4
        assert np.abs(found).max() < 2.5 * np.abs(directions).sum(axis=0).max()

    def test_what_is_not_seen_keeps_the_default(self):
        world = World()
        found = calibrated_basis(default_basis(), world.responses())
        for index, name in enumerate(BLENDSHAPE_NAMES):
            if name not in SEEN and name != "mouthClose":
                np.testing.assert_array_equal(found.matrix[index], default_basis().matrix[index])

    def test_a_renderer_that_answers_as_assumed_changes_little(self):
        world = World(gains=(1, 1), crosstalk=0)
        found = calibrated_basis(default_basis(), world.responses())
        assert world.error(found, speech()) <= max(0.02, world.error(default_basis(), speech()))

    def test_a_strong_ridge_is_the_default(self):
        found = calibrated_basis(default_basis(), World().responses(), ridge=1e9)
        np.testing.assert_allclose(found.matrix, default_basis().matrix, atol=1e-6)

    def test_directions_without_a_face_are_left_out(self):
        directions = calibration_directions(default_basis())
        none = RendererResponse(directions, np.zeros((len(directions), 52)), np.zeros(len(directions), bool))
        np.testing.assert_array_equal(calibrated_basis(default_basis(), none).matrix, default_basis().matrix)

    @pytest.mark.parametrize("ridge", [0, -1, float("nan")])
    def test_impossible_ridge(self, ridge):
        with pytest.raises(ValueError, match="ridge is"):
            calibrated_basis(default_basis(), World().responses(), ridge)

    def test_what_it_was_measured_on_is_noted(self):
        found = calibrated_basis(
            default_basis(), World().responses(), weights_sha256=SHA, portrait="astronaut"
        )
        assert (found.name, found.weights_sha256, found.portrait) == ("calibrated", SHA, "astronaut")
        assert "slider steps" in found.made_from
        assert "calibrated on" in found.made_from


class TestFile:
    def test_what_is_saved_is_loaded(self, tmp_path):
        basis = calibrated_basis(
            default_basis(), World(2, 0.01).responses(), weights_sha256=SHA, portrait="Žofie"
        )
        save_basis(basis, tmp_path / "basis.json")
        loaded = load_basis(tmp_path / "basis.json")
        np.testing.assert_array_equal(loaded.matrix, basis.matrix)
        for name in ("name", "made_from", "weights_sha256", "portrait"):
            assert getattr(loaded, name) == getattr(basis, name)
        assert [path.name for path in tmp_path.iterdir()] == ["basis.json"]

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            save_basis(default_basis(), tmp_path / "nowhere" / "basis.json")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load_basis(tmp_path / "basis.json")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda content: [], "is not a retargeting basis"),
            (lambda content: {**content, "format": "other"}, "is not a retargeting basis"),
            (lambda content: {**content, "version": 2}, "is version 2 of the format, expected 1"),
            (lambda content: {**content, "offsets": {}}, "exactly the 52 ARKit shapes"),
            (lambda content: {**content, "offsets": [1]}, "exactly the 52 ARKit shapes"),
            (
                lambda content: {**content, "offsets": {**content["offsets"], "jaw": []}},
                "exactly the 52 ARKit shapes; see jaw",
            ),
            (
                lambda content: {**content, "offsets": {**content["offsets"], "jawOpen": [0.0]}},
                r"jawOpen of shape \(1,\), expected \(63,\)",
            ),
            (
                lambda content: {**content, "offsets": {**content["offsets"], "jawOpen": 63 * ["much"]}},
                "not numbers",
            ),
            (
                lambda content: {
                    **content,
                    "offsets": {**content["offsets"], "jawOpen": 63 * [float("nan")]},
                },
                "NaN",
            ),
            (lambda content: {**content, "weights_sha256": "short"}, "64 lower-case hexadecimal digits"),
        ],
    )
    def test_files_of_another_kind(self, tmp_path, change, message):
        path = tmp_path / "basis.json"
        save_basis(default_basis(), path)
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        with pytest.raises(ValueError, match=message):
            load_basis(path)

    def test_no_json(self, tmp_path):
        path = tmp_path / "basis.json"
        path.write_text("{")
        with pytest.raises(ValueError, match="is not JSON"):
            load_basis(path)
