"""The mesh renderer as a whole, on portraits that need no bundle: a drawn face, and NASA's astronaut."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.face.pose import fit_head_pose, rotation_matrix
from talking_portrait.core_models.face.topology import LIPS_LOWER_INNER, LIPS_UPPER_INNER, canonical_face
from talking_portrait.core_models.rendering.lips import collapse_seam
from talking_portrait.core_models.rendering.mesh import MeshRenderer, MeshRendererParameters
from talking_portrait.core_models.types import (
    BLENDSHAPE_INDEX,
    IMPLICIT_KEYPOINTS,
    FaceMotion,
    Portrait,
)


def drawn_portrait(size=(160, 180), pixels_per_cm=5.0, centre=(80, 92), yaw=0.0) -> Portrait:
    """A closed-mouth canonical face over a picture of noise, seen at `yaw` degrees."""
    width, height = size
    picture = np.random.default_rng(11).integers(0, 256, (height, width, 3)).astype(np.uint8)
    face = collapse_seam(canonical_face().vertices)
    irises = np.repeat([face[[33, 133]].mean(axis=0), face[[263, 362]].mean(axis=0)], 5, axis=0)
    irises += np.tile([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [-0.5, 0, 0], [0, -0.5, 0]], (2, 1))
    turned = np.concatenate([face, irises]) @ rotation_matrix(np.array([0, yaw, 0])).T
    landmarks = turned * pixels_per_cm * (1, -1, -1) + (*centre, 0)
    return Portrait(picture, landmarks, np.zeros(52), fit_head_pose(landmarks), np.eye(2, 3))


def motion_of(rotation=(0, 0, 0), translation=(0, 0, 0), scale=1.0, **values: float) -> FaceMotion:
    expression = np.zeros((1, 52))
    for name, value in values.items():
        names = [name] if name in BLENDSHAPE_INDEX else [name + "Left", name + "Right"]
        expression[0, [BLENDSHAPE_INDEX[each] for each in names]] = value
    return FaceMotion("blendshapes", 25.0, expression, [rotation], [translation], [scale])


@pytest.fixture(scope="module")
def renderer() -> MeshRenderer:
    return MeshRenderer(drawn_portrait())


def changed(renderer: MeshRenderer, motion: FaceMotion) -> np.ndarray:
    """(H, W) the largest change of each pixel in grey levels."""
    frame = renderer.render(motion, 0)
    return np.abs(frame.astype(int) - renderer.portrait.frame).max(axis=2)


def box_of(renderer: MeshRenderer, indices: list[int], margin: int = 4) -> tuple[slice, slice]:
    points = renderer.portrait.landmarks[indices, :2]
    (left, top), (right, bottom) = points.min(axis=0) - margin, points.max(axis=0) + margin
    return slice(int(top), int(bottom)), slice(int(left), int(right))


def test_rest_gives_the_photo_back(renderer):
    assert changed(renderer, FaceMotion.at_rest(1, 25)).max() == 0


def test_drawing_without_motion_gives_the_photo_back_too(renderer):
    barely = motion_of(rotation=(1e-6, 0, 0))
    assert changed(renderer, barely).max() <= 1


def test_the_photos_own_expression_gives_the_photo_back(astronaut_portrait):
    renderer = MeshRenderer(astronaut_portrait)
    absolute = (
        "jawOpen",
        "mouthUpperUpLeft",
        "mouthUpperUpRight",
        "mouthLowerDownLeft",
        "mouthLowerDownRight",
    )
    own = {name: float(astronaut_portrait.blendshapes[BLENDSHAPE_INDEX[name]]) for name in absolute}
    own["jawOpen"] = 0.85 * np.arctanh(own["jawOpen"] / 0.85)
    assert changed(renderer, motion_of(**own)).max() <= 1
    assert changed(renderer, FaceMotion.at_rest(1, 25)).max() == 0


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    expression=st.lists(st.floats(0, 1), min_size=52, max_size=52),
    rotation=st.tuples(*[st.floats(-40, 40)] * 3),
    translation=st.tuples(*[st.floats(-1, 1)] * 3),
    scale=st.floats(0.5, 2.0),
)
def test_no_motion_changes_a_pixel_outside_the_moving_region(
    renderer, expression, rotation, translation, scale
):
    motion = FaceMotion("blendshapes", 25.0, [expression], [rotation], [translation], [scale])
    assert changed(renderer, motion)[~renderer.moving_region].max() == 0


def test_landmarks_at_rest_are_the_portraits(renderer):
    landmarks = renderer.landmarks(FaceMotion.at_rest(2, 25))
    assert landmarks.shape == (2, 478, 3)
    assert landmarks.dtype == np.float32
    off = np.abs(landmarks - renderer.portrait.landmarks)
    lips = [index for row in (LIPS_UPPER_INNER, LIPS_LOWER_INNER) for index in row]
    assert np.delete(off, lips, axis=1).max() < 0.01


def test_landmarks_go_where_the_picture_goes(renderer):
    resting = renderer.portrait.landmarks
    shifted = renderer.landmarks(motion_of(translation=(0.05, 0, 0)))[0] - resting
    assert shifted[1, 0] > 1
    assert abs(shifted[1, 1]) < 0.1
    opened = renderer.landmarks(motion_of(jawOpen=0.6))[0]
    assert opened[14, 1] - opened[13, 1] > 3
    blinked = renderer.landmarks(motion_of(eyeBlinkLeft=1.0))[0]
    assert blinked[374, 1] - blinked[386, 1] < 0.3 * (resting[374, 1] - resting[386, 1])
    looked = renderer.landmarks(motion_of(eyeLookOutLeft=0.5, eyeLookInRight=0.5))[0] - resting
    assert (looked[[468, 473], 0] > 0.3).all()
    assert np.abs(looked[:468]).max() < 0.01 + np.abs(looked[468:]).max()


def test_landmarks_of_another_space_are_refused(renderer):
    with pytest.raises(ValueError, match="implicit_keypoints"):
        renderer.landmarks(FaceMotion.at_rest(1, 25, "implicit_keypoints"))


def test_the_moving_region_leaves_the_pictures_corners(renderer):
    corners = renderer.moving_region[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert not corners.all()
    assert renderer.moving_region.shape == renderer.portrait.frame.shape[:2]


@pytest.mark.parametrize(
    ("asked", "moving", "still"),
    [
        ({"jawOpen": 0.6}, [13, 14, 152], [33, 263, 10]),
        ({"eyeBlinkLeft": 1.0}, [386, 374], [159, 145, 13, 14]),
        ({"mouthSmileLeft": 0.8}, [291, 409], [33, 133, 10]),
        ({"browOuterUp": 0.9}, [105, 334], [13, 14, 152]),
        ({"eyeLookUp": 0.9}, [468, 473], [13, 14, 152]),
    ],
)
def test_each_shape_changes_its_own_part_of_the_face(renderer, asked, moving, still):
    difference = changed(renderer, motion_of(**asked))
    assert all(difference[box_of(renderer, [index])].max() > 20 for index in moving)
    assert all(difference[box_of(renderer, [index], margin=3)].max() <= 1 for index in still)


def test_a_shifted_head_shows_the_photo_shifted(renderer):
    frame = renderer.render(motion_of(translation=(0.1, 0, 0)), 0)
    shift = 0.22 * np.tanh(0.1 / 0.22) * renderer._face_unit * renderer.portrait.pose.scale
    rows, columns = box_of(renderer, [6, 4], margin=8)
    x = np.arange(columns.start, columns.stop) - shift
    photo = renderer.portrait.frame[rows].astype(float)
    expected = np.stack(
        [[np.interp(x, np.arange(160), row[:, c]) for row in photo] for c in range(3)], axis=2
    )
    shown = frame[rows, columns].astype(float)
    assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.9


def test_rendering_is_pure_and_deterministic(renderer):
    motion = motion_of(jawOpen=0.4, eyeBlink=0.7, rotation=(3, 5, 2))
    before = renderer.portrait.frame.copy()
    first = renderer.render(motion, 0)
    renderer.render(motion_of(mouthPucker=0.9), 0)
    np.testing.assert_array_equal(first, renderer.render(motion, 0))
    np.testing.assert_array_equal(before, renderer.portrait.frame)
    first[:] = 0
    np.testing.assert_array_equal(before, renderer.portrait.frame)


def test_frames_stream_and_report_progress(renderer):
    seen = []
    frames = renderer.frames(FaceMotion.at_rest(3, 25), lambda done, total: seen.append((done, total)))
    assert next(frames).shape == renderer.portrait.frame.shape
    assert seen == [(0, 3)]
    assert len(list(frames)) == 2
    assert seen[-1] == (3, 3)


def test_progress_may_cancel(renderer):
    def cancel(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    frames = renderer.frames(FaceMotion.at_rest(9, 25), cancel)
    next(frames)
    with pytest.raises(KeyboardInterrupt):
        next(frames)


def test_motion_of_another_space_is_refused_with_what_to_do(renderer):
    motion = FaceMotion.at_rest(1, 25, IMPLICIT_KEYPOINTS)
    with pytest.raises(ValueError, match="choose LivePortrait"):
        renderer.render(motion, 0)
    with pytest.raises(ValueError, match="choose LivePortrait"):
        next(renderer.frames(motion))


def test_a_frame_past_the_end_is_refused(renderer):
    with pytest.raises(IndexError, match="frame 3 of a motion of 3"):
        renderer.render(FaceMotion.at_rest(3, 25), 3)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"interpolation": "nearest"}, "cubic, linear"),
        ({"expression_strength": -1}, "expression_strength is -1"),
        ({"head_strength": float("nan")}, "head_strength is nan"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        MeshRendererParameters(**parameters)


def test_strength_zero_is_still(renderer):
    still = MeshRenderer(renderer.portrait, MeshRendererParameters(expression_strength=0, head_strength=0))
    motion = motion_of(jawOpen=0.6, mouthSmile=0.5, rotation=(5, 5, 5), scale=1.1)
    assert changed(still, motion).max() == 0


def test_profiles_are_refused():
    with pytest.raises(ValueError, match="turned 60 degrees"):
        MeshRenderer(drawn_portrait(yaw=60))


@pytest.mark.parametrize("yaw", [-40, -25, 25, 40])
def test_turned_heads_are_damped_not_torn(yaw):
    """The far silhouette keeps its place: nothing outside the head's own neighbourhood is dragged along."""
    renderer = MeshRenderer(drawn_portrait(yaw=yaw))
    difference = changed(renderer, motion_of(rotation=(0, -np.sign(yaw) * 20, 0)))
    assert difference[~renderer.moving_region].max() == 0
    limits = [3.0, 14.0]
    towards = renderer._head_move(motion_of(rotation=(0, -np.sign(yaw) * 20, 0)), 0)
    assert towards.angle <= (limits[0] if abs(yaw) >= 40 else limits[1])


def test_a_small_face_costs_only_its_own_neighbourhood():
    renderer = MeshRenderer(drawn_portrait(size=(1200, 900), pixels_per_cm=5.0, centre=(300, 400)))
    assert renderer.moving_region.mean() < 0.05
    assert changed(renderer, motion_of(jawOpen=0.5, rotation=(5, 5, 0)))[renderer.moving_region].max() > 20


@pytest.mark.parametrize("centre", [(5, 92), (158, 92), (80, 10), (80, 175)])
def test_faces_cut_by_the_border_still_render(centre):
    renderer = MeshRenderer(drawn_portrait(centre=centre))
    motion = motion_of(jawOpen=0.6, eyeBlink=1.0, eyeLookUp=0.5, mouthPress=0.3, rotation=(9, 9, 9))
    assert changed(renderer, motion)[~renderer.moving_region].max(initial=0) == 0


def test_a_face_outside_the_picture_is_refused():
    with pytest.raises(ValueError, match="outside the picture"):
        MeshRenderer(drawn_portrait(centre=(900, 900)))


def test_an_open_mouth_seals(astronaut_portrait):
    """Sealed lips hide the teeth: the brightest pixels between the lips go."""
    renderer = MeshRenderer(astronaut_portrait)
    sealed = renderer.render(motion_of(mouthPress=0.4, mouthRollUpper=0.1), 0)
    points = astronaut_portrait.landmarks[[13, 14], :2]
    x, y = points.mean(axis=0).astype(int)
    photo, shown = (
        frame[y - 2 : y + 3, x - 6 : x + 7].min(axis=2).mean() for frame in (renderer.portrait.frame, sealed)
    )
    assert shown < photo - 25


def test_an_opened_mouth_is_dark_inside(renderer):
    frame = renderer.render(motion_of(jawOpen=0.6), 0)
    x, y = renderer.portrait.landmarks[14, :2].astype(int)
    drop = round(0.9 * renderer.portrait.pose.scale)
    assert frame[y + drop - 1 : y + drop + 2, x - 3 : x + 4].mean() < 80 < renderer.portrait.frame.mean()
