"""The expression editor: the release's own slider steps, the same in blendshapes, and edits over time."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.face.pose import rotation_matrix
from talking_portrait.core_models.motion.expression_editor import (
    ExpressionEdit,
    edit_blendshapes,
    edit_motion,
    edit_offsets,
    edit_values,
    still_motion,
)
from talking_portrait.core_models.motion.expression_keyframes import edits_from_keyframes
from talking_portrait.core_models.motion.expression_sliders import (
    EXPRESSION_SLIDERS,
    KEYPOINT_SLIDERS,
    SLIDER_NAMES,
    SLIDER_RANGES,
    ZOOM,
)
from talking_portrait.core_models.motion.keypoint_geometry import extractor_rotation, keypoint_rotation
from talking_portrait.core_models.types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPE_NAMES,
    BLENDSHAPES,
    IMPLICIT_KEYPOINTS,
    FaceMotion,
)

RELEASE_STEPS = {
    # slider, its side: release units per natural unit, {component: step per release unit}
    ("smile", 1): (
        1.0,
        {
            (20, 1): -0.01,
            (14, 1): -0.02,
            (17, 1): 0.0065,
            (17, 2): 0.003,
            (13, 1): -0.00275,
            (16, 1): -0.00275,
            (3, 1): -0.0035,
            (7, 1): -0.0035,
        },
    ),
    ("smile", -1): (
        0.3,
        {
            (20, 1): -0.01,
            (14, 1): -0.02,
            (17, 1): 0.0065,
            (17, 2): 0.003,
            (13, 1): -0.00275,
            (16, 1): -0.00275,
            (3, 1): -0.0035,
            (7, 1): -0.0035,
        },
    ),
    ("blink", 1): (20.0, {(11, 1): 0.001, (13, 1): -0.0003, (15, 1): 0.001, (16, 1): -0.0003}),
    ("blink", -1): (10.0, {(11, 1): 0.001, (13, 1): -0.0003, (15, 1): 0.001, (16, 1): -0.0003}),
    ("wink_right", 1): (
        20.0,
        {(11, 1): 0.001, (13, 1): -0.0003, (17, 0): 0.0003, (17, 1): 0.0003, (3, 1): -0.0003},
    ),
    ("brows", 1): (15.0, {(1, 1): 0.001, (2, 1): -0.001}),
    ("brows", -1): (15.0, {(1, 0): -0.001, (2, 0): 0.001, (1, 1): 0.0003, (2, 1): -0.0003}),
    ("gaze_x", 1): (15.0, {(11, 0): 0.0007, (15, 0): 0.001}),
    ("gaze_x", -1): (15.0, {(11, 0): 0.001, (15, 0): 0.0007}),
    # a step up with a blink of minus half a step: -0.001 + 0.0005 and -0.5 * 0.0003
    ("gaze_y", 1): (31.5, {(11, 1): -0.0005, (15, 1): -0.0005, (13, 1): -0.00015, (16, 1): -0.00015}),
    ("gaze_y", -1): (31.5, {(11, 1): -0.0005, (15, 1): -0.0005, (13, 1): -0.00015, (16, 1): -0.00015}),
    ("pout", 1): (0.045, {(19, 0): 1.0}),
    ("pout", -1): (0.045, {(19, 0): 1.0}),
    ("woo", 1): (7.5, {(14, 1): 0.001, (3, 1): -0.0005, (7, 1): -0.0005, (17, 2): -0.0005}),
    ("woo", -1): (10.0, {(14, 1): 0.001, (3, 1): -0.0005, (7, 1): -0.0005, (17, 2): -0.0005}),
    ("eee", 1): (7.5, {(20, 2): -0.001, (20, 1): -0.001, (14, 1): -0.001}),
    ("aaa", 1): (60.0, {(19, 1): 0.001, (19, 2): 0.0001, (17, 1): -0.0001}),
    ("aaa", -1): (45.0, {(19, 1): 0.001, (19, 2): 0.0001, (17, 1): -0.0001}),
    ("shift_x", 1): (0.32, {(5, 0): -1.0}),
    ("shift_x", -1): (0.32, {(5, 0): -1.0}),
    ("shift_y", 1): (0.32, {(5, 1): 1.0}),
    ("shift_y", -1): (0.32, {(5, 1): 1.0}),
}
RELEASE_ENDS = {
    "smile": (-0.3, 1.3),
    "wink_right": (0, 39),
    "brows": (-30, 30),
    "gaze_x": (-30, 30),
    "gaze_y": (-63, 63),
    "pout": (-0.09, 0.09),
    "woo": (-20, 15),
    "eee": (0, 15),
    "aaa": (-90, 120),
    "shift_x": (-0.19, 0.19),
    "shift_y": (-0.19, 0.19),
}

EDITS = st.builds(
    ExpressionEdit, **{name: st.floats(*SLIDER_RANGES[name], allow_subnormal=False) for name in SLIDER_NAMES}
)


def motion_with(space=BLENDSHAPES, frames=10, fps=25.0, openings=None, **coefficients):
    expression = np.zeros((frames, 52 if space == BLENDSHAPES else 63))
    for name, value in coefficients.items():
        expression[:, BLENDSHAPE_INDEX[name]] = value
    return FaceMotion(
        space,
        fps,
        expression,
        np.zeros((frames, 3)),
        np.zeros((frames, 3)),
        np.ones(frames),
        openings=openings,
    )


def shown(changes: np.ndarray) -> set[str]:
    return {name for name, value in zip(BLENDSHAPE_NAMES, changes, strict=True) if value > 0}


class TestReleaseSteps:
    @pytest.mark.parametrize(("slider", "side"), RELEASE_STEPS)
    @pytest.mark.parametrize("distance", [0.25, 0.6])
    def test_a_slider_moves_what_the_release_moves_and_nothing_else(self, slider, side, distance):
        units, steps = RELEASE_STEPS[slider, side]
        expected = np.zeros((21, 3))
        for (point, axis), step in steps.items():
            expected[point, axis] = side * distance * units * step
        found = edit_offsets(ExpressionEdit(**{slider: side * distance})).reshape(21, 3)
        np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_every_slider_with_offsets_is_in_the_table(self):
        tested = {slider for slider, _ in RELEASE_STEPS}
        assert set(KEYPOINT_SLIDERS) - tested == {"wink_left"}  # the release has only the other one

    @pytest.mark.parametrize("slider", RELEASE_ENDS)
    def test_the_ends_of_the_releases_sliders_are_within_reach(self, slider):
        low, high = RELEASE_ENDS[slider]
        lowest, largest = SLIDER_RANGES[slider]
        assert largest * abs(RELEASE_STEPS[slider, 1][0]) >= high
        if low < 0:
            assert lowest * abs(RELEASE_STEPS[slider, -1][0]) <= low

    def test_the_left_wink_mirrors_the_right_one(self):
        left, right = (
            edit_offsets(ExpressionEdit(**{f"wink_{side}": 1})).reshape(21, 3) for side in ("left", "right")
        )
        mirrored = right.copy()
        mirrored[[11, 13, 3, 15, 16, 7]] = right[[15, 16, 7, 11, 13, 3]]
        mirrored[:, 0] *= -1
        np.testing.assert_allclose(left, mirrored, atol=1e-12)

    @pytest.mark.parametrize(("slider", "sign"), [("pitch", 1), ("yaw", -1), ("roll", -1)])
    def test_one_head_slider_on_a_frontal_portrait_is_the_releases(self, slider, sign):
        motion = still_motion(ExpressionEdit(**{slider: 12}), 1, 25, IMPLICIT_KEYPOINTS)
        degrees = {"pitch": 0.0, "yaw": 0.0, "roll": 0.0, slider: sign * 12.0}
        expected = extractor_rotation(np.array(list(degrees.values())))
        np.testing.assert_allclose(keypoint_rotation(motion.rotation[0]), expected, atol=1e-6)

    def test_zoom_multiplies_the_scale(self):
        for space in (BLENDSHAPES, IMPLICIT_KEYPOINTS):
            assert still_motion(ExpressionEdit(zoom=1.2), 3, 25, space).scale.tolist() == pytest.approx(
                3 * [1.2]
            )


class TestEdit:
    def test_no_edit_is_no_change(self):
        assert not edit_offsets(ExpressionEdit()).any()
        assert not edit_blendshapes(ExpressionEdit()).any()

    def test_the_ranges_are_those_of_the_fields_in_their_order(self):
        assert tuple(ExpressionEdit.__dataclass_fields__) == SLIDER_NAMES

    @pytest.mark.parametrize("name", SLIDER_NAMES)
    def test_out_of_range(self, name):
        lowest, largest = SLIDER_RANGES[name]
        for value in (largest + 0.1, lowest - 0.1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=rf"{name} is .*, expected {lowest:g} to {largest:g}"):
                ExpressionEdit(**{name: value})

    @given(edit=EDITS)
    def test_offsets_scale_with_the_sliders(self, edit):
        half = {
            name: getattr(edit, name) / 2 if name != ZOOM else getattr(edit, name) for name in SLIDER_NAMES
        }
        np.testing.assert_allclose(edit_offsets(ExpressionEdit(**half)) * 2, edit_offsets(edit), atol=1e-9)


class TestBlendshapes:
    @pytest.mark.parametrize(
        ("edit", "names"),
        [
            ({"smile": 1}, {"mouthSmileLeft", "mouthSmileRight", "cheekSquintLeft", "cheekSquintRight"}),
            ({"smile": -1}, {"mouthFrownLeft", "mouthFrownRight"}),
            ({"blink": 1}, {"eyeBlinkLeft", "eyeBlinkRight"}),
            ({"blink": -1}, {"eyeWideLeft", "eyeWideRight"}),
            ({"wink_left": 1}, {"eyeBlinkLeft", "cheekSquintLeft", "mouthSmileLeft"}),
            ({"wink_right": 1}, {"eyeBlinkRight", "cheekSquintRight", "mouthSmileRight"}),
            ({"brows": 1}, {"browInnerUp", "browOuterUpLeft", "browOuterUpRight"}),
            ({"brows": -1}, {"browDownLeft", "browDownRight"}),
            ({"gaze_x": 1}, {"eyeLookOutLeft", "eyeLookInRight"}),
            ({"gaze_x": -1}, {"eyeLookInLeft", "eyeLookOutRight"}),
            ({"gaze_y": 1}, {"eyeLookUpLeft", "eyeLookUpRight"}),
            ({"gaze_y": -1}, {"eyeLookDownLeft", "eyeLookDownRight"}),
            ({"aaa": 1}, {"jawOpen"}),
            ({"aaa": -1}, {"mouthPressLeft", "mouthPressRight"}),
            ({"woo": 1}, {"mouthPucker", "mouthFunnel"}),
            ({"pout": 1}, {"mouthLeft", "jawLeft"}),
            ({"shift_x": 0.5, "shift_y": 0.5, "yaw": 20, "zoom": 1.5}, set()),
        ],
    )
    def test_which_shapes_a_slider_shows(self, edit, names):
        assert shown(edit_blendshapes(ExpressionEdit(**edit))) == names

    @given(edit=EDITS)
    def test_a_still_is_within_range_and_both_eyes_look_one_way(self, edit):
        motion = still_motion(edit, 2, 25)
        assert motion.expression.min() >= 0
        assert motion.expression.max() <= 1
        for one, other in (("eyeLookInLeft", "eyeLookOutLeft"), ("eyeLookUpRight", "eyeLookDownRight")):
            assert not (motion.blendshape(one) * motion.blendshape(other)).any()

    @pytest.mark.parametrize("name", EXPRESSION_SLIDERS)
    def test_more_of_a_slider_is_never_less_of_what_it_shows(self, name):
        stills = [still_motion(ExpressionEdit(**{name: v}), 1, 25).expression[0] for v in (0, 0.5, 1, 2)]
        for one, other in pairwise(stills):
            assert (other >= one - 1e-6).all()

    def test_an_edit_undoes_its_opposite(self):
        smiling = motion_with(mouthSmileLeft=0.6, mouthSmileRight=0.6)
        assert edit_motion(smiling, ExpressionEdit(smile=-1)).blendshape("mouthSmileLeft").max() == 0
        talking = motion_with(jawOpen=0.4)
        assert edit_motion(talking, ExpressionEdit(aaa=-1)).blendshape("jawOpen").max() == 0
        blinking = motion_with(eyeBlinkLeft=1.0, eyeBlinkRight=1.0)
        assert edit_motion(blinking, ExpressionEdit(blink=-1)).blendshape("eyeBlinkLeft").max() == 0

    def test_gaze_adds_to_the_gaze_that_is_there(self):
        aside = motion_with(eyeLookOutLeft=0.3, eyeLookInRight=0.3)
        edited = edit_motion(aside, ExpressionEdit(gaze_x=-0.6))
        assert edited.blendshape("eyeLookOutLeft").max() == 0
        np.testing.assert_allclose(edited.blendshape("eyeLookInLeft"), 0.15, atol=1e-6)
        np.testing.assert_allclose(edited.blendshape("eyeLookOutRight"), 0.15, atol=1e-6)


class TestMotion:
    @pytest.mark.parametrize("space", [BLENDSHAPES, IMPLICIT_KEYPOINTS])
    def test_a_motion_keeps_what_is_not_edited(self, space):
        rng = np.random.default_rng(0)
        size = 52 if space == BLENDSHAPES else 63
        motion = FaceMotion(
            space,
            30,
            rng.uniform(0, 1, (8, size)),
            rng.normal(0, 5, (8, 3)),
            rng.normal(0, 0.1, (8, 3)),
            rng.uniform(0.9, 1.1, 8),
        )
        same = edit_motion(motion, ExpressionEdit())
        for name in ("expression", "rotation", "translation", "scale"):
            np.testing.assert_allclose(getattr(same, name), getattr(motion, name), atol=1e-5)
        assert (same.fps, same.frame_count, same.space) == (30, 8, space)

    @settings(deadline=None)
    @given(edit=EDITS, angles=st.tuples(*3 * [st.floats(-40, 40)]))
    def test_the_edit_turns_the_rest_and_the_motion_goes_on_from_there(self, edit, angles):
        motion = FaceMotion(
            BLENDSHAPES, 25, np.zeros((1, 52)), np.array([angles]), np.zeros((1, 3)), np.ones(1)
        )
        found = rotation_matrix(edit_motion(motion, edit).rotation[0])
        expected = rotation_matrix([edit.pitch, edit.yaw, edit.roll]) @ rotation_matrix(angles)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_shift_is_a_translation_or_the_bodys_keypoint(self):
        edit = ExpressionEdit(shift_x=0.3, shift_y=-0.2)
        np.testing.assert_allclose(still_motion(edit, 1, 25).translation, [[0.3, -0.2, 0]], atol=1e-6)
        keypoints = still_motion(edit, 1, 25, IMPLICIT_KEYPOINTS)
        assert not keypoints.translation.any()
        np.testing.assert_allclose(
            keypoints.expression.reshape(21, 3)[5], [-0.3 * 0.32, -0.2 * 0.32, 0], atol=1e-6
        )

    def test_openings_follow_lids_and_lips(self):
        openings = np.tile([0.35, 0.35, 0.1], (4, 1))
        motion = motion_with(IMPLICIT_KEYPOINTS, 4, openings=openings)
        closed = edit_motion(motion, ExpressionEdit(blink=1)).openings
        np.testing.assert_allclose(closed, np.tile([0, 0, 0.1], (4, 1)), atol=1e-6)
        winked = edit_motion(motion, ExpressionEdit(wink_right=1)).openings[0]
        assert winked[0] == 0  # the viewer's left
        assert winked[1] == pytest.approx(0.35)
        opened = edit_motion(motion, ExpressionEdit(aaa=1)).openings[0]
        assert opened[2] == pytest.approx(0.1 + 0.06 / 0.115, abs=1e-5)
        assert edit_motion(motion_with(IMPLICIT_KEYPOINTS), ExpressionEdit(aaa=1)).openings is None

    def test_the_wires_object_stays(self):
        motion = motion_with(jawOpen=0.2)
        edit_motion(motion, ExpressionEdit(aaa=1))
        assert motion.blendshape("jawOpen").max() == pytest.approx(0.2)

    def test_unknown_space(self):
        with pytest.raises(ValueError, match="space is 'mesh'"):
            still_motion(ExpressionEdit(), 1, 25, "mesh")


class TestKeyframes:
    KEYS = ((0.5, ExpressionEdit(smile=0.2, zoom=0.5)), (1.5, ExpressionEdit(smile=1.0, yaw=20, zoom=2)))

    def test_held_outside_and_met_at_the_keys(self):
        values = edit_values(self.KEYS, np.array([0, 0.5, 1.0, 1.5, 9]))
        smile, yaw, zoom = (values[:, SLIDER_NAMES.index(name)] for name in ("smile", "yaw", ZOOM))
        np.testing.assert_allclose(smile, [0.2, 0.2, 0.6, 1.0, 1.0])
        np.testing.assert_allclose(yaw, [0, 0, 10, 20, 20], atol=1e-9)
        np.testing.assert_allclose(zoom, [0.5, 0.5, 1, 2, 2])

    @given(first=EDITS, second=EDITS, third=EDITS)
    def test_smooth_and_never_beyond_the_keys(self, first, second, third):
        keys = ((0.0, first), (1.0, second), (1.5, third))
        times = np.linspace(0, 1.5, 301)
        values = edit_values(keys, times)
        ends = np.array([[getattr(edit, name) for name in SLIDER_NAMES] for _, edit in keys])
        for start, stop, rows in ((0, 1, values[:201]), (1, 2, values[200:])):
            assert (rows >= np.minimum(ends[start], ends[stop]) - 1e-9).all()
            assert (rows <= np.maximum(ends[start], ends[stop]) + 1e-9).all()
        steps = np.abs(np.diff(values, axis=0))
        largest = np.abs(np.diff(ends, axis=0)).max(axis=0)
        assert (
            steps <= largest * 0.03 + 1e-9
        ).all()  # no jumps: 0.005 s of a change that takes 0.5 s or more
        assert (steps[[0, -1]] <= largest * 0.001 + 1e-9).all()  # and a gentle start and end

    def test_frames_take_the_edit_of_their_middle(self):
        keys = [(0.02, ExpressionEdit()), (0.1, ExpressionEdit(blink=1))]
        blink = still_motion(keys, 4, 25).blendshape("eyeBlinkLeft")
        np.testing.assert_allclose(blink, [0, 0.5, 1, 1], atol=1e-6)

    def test_one_edit_is_the_same_as_one_key(self):
        edit = ExpressionEdit(smile=1, yaw=5)
        one, other = still_motion(edit, 5, 25), still_motion([(3.0, edit)], 5, 25)
        np.testing.assert_array_equal(one.expression, other.expression)
        np.testing.assert_array_equal(one.rotation, other.rotation)

    @pytest.mark.parametrize("times", [(1, 1), (2, 1), (-1, 0), (0, float("nan"))])
    def test_times_must_increase(self, times):
        with pytest.raises(ValueError, match="must be 0 or more and increase"):
            still_motion([(time, ExpressionEdit()) for time in times], 5, 25)

    def test_no_keys(self):
        with pytest.raises(ValueError, match="no key frames"):
            still_motion([], 5, 25)


class TestText:
    def test_keys_in_any_order_and_form(self):
        keys = edits_from_keyframes("2: neutral\n0.5: Smile=0.8 yaw = 10; 1: blink=1,\n")
        assert keys == (
            (0.5, ExpressionEdit(smile=0.8, yaw=10)),
            (1.0, ExpressionEdit(blink=1)),
            (2.0, ExpressionEdit()),
        )

    @given(edit=EDITS, time=st.floats(0, 1e4))
    def test_what_is_written_is_read(self, edit, time):
        sliders = " ".join(f"{name}={getattr(edit, name)!r}" for name in SLIDER_NAMES)
        assert edits_from_keyframes(f"{time!r}: {sliders}") == ((time, edit),)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no key frames"),
            (" ,\n; ", "no key frames"),
            ("smile=1", "cannot read the key frame 'smile=1': write 'seconds: slider=value"),
            ("soon: smile=1", "cannot read the key frame"),
            ("-1: smile=1", "cannot read the key frame"),
            ("inf: smile=1", "cannot read the key frame"),
            ("0:", "sets no slider"),
            ("0: smile", "cannot read 'smile' in '0: smile'"),
            ("0: neutral smile=1", "cannot read 'neutral'"),
            ("0: smil=1", "unknown slider 'smil' in '0: smil=1'; known: smile, blink, .*zoom"),
            ("0: smile=much", "the value 'much' of 'smile' in '0: smile=much' is not a number"),
            ("0: smile=nan", "is not a number"),
            ("0: smile=", "is not a number"),
            ("0: smile=3", "in the key frame '0: smile=3': smile is 3, expected -2 to 2"),
            ("0: eee=-1", "eee is -1, expected 0 to 2"),
            ("0: zoom=0", "zoom is 0, expected 0.5 to 2"),
            ("0: smile=1 smile=1", "set twice"),
            ("1: smile=1\n1.0: blink=1", "two key frames at 1 s"),
        ],
    )
    def test_what_is_wrong_is_said(self, text, message):
        with pytest.raises(ValueError, match=message):
            edits_from_keyframes(text)
