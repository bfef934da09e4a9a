"""Motion from driving videos: calibration, smoothing, missing faces, and real clips."""

import logging

import numpy as np
import pytest
from talking_portrait.core_models.face.landmarker import DetectedFace, FaceNotFoundError
from talking_portrait.core_models.face.pose import pivot_position, project_shape
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.motion.from_video import (
    ABSOLUTE_SHAPES,
    calibrate_expression,
    motion_from_faces,
    motion_from_frames,
)
from talking_portrait.core_models.motion.track import smoothed_rows
from talking_portrait.core_models.rendering.head_turn import limited_head_move
from talking_portrait.core_models.types import BLENDSHAPE_INDEX, BLENDSHAPE_NAMES, HeadPose

EYES_CM = 8.8917


def made_face(rotation=(0, 0, 0), position=(300, -200), scale=10.0, **shapes):
    """A face whose pose and coefficients are known."""
    landmarks = np.zeros((478, 3))
    landmarks[:468] = project_shape(canonical_face().vertices, HeadPose(rotation, (*position, 0), scale))
    values = np.zeros(52)
    for name, value in shapes.items():
        values[BLENDSHAPE_INDEX[name]] = value
    return DetectedFace(landmarks, values, 1.0, (0.0, 0.0, 1.0, 1.0))


def raw(faces, **options):
    return motion_from_faces(faces, 25, smoothing=0, **options)


def test_head_turns_away_from_the_rest():
    """A driver who always looks 10 degrees aside and then turns 5 more makes a turn of 5."""
    faces = [made_face((4, 10, -3))] * 5 + [made_face((4, 15, -3))]
    motion = raw(faces)
    np.testing.assert_allclose(motion.rotation[0], 0, atol=1e-3)
    assert np.linalg.norm(motion.rotation[-1]) == pytest.approx(5, abs=0.1)
    assert motion.rotation[-1, 1] == pytest.approx(5, abs=0.1)


def test_translation_is_in_face_units_and_up_is_positive():
    faces = [made_face(position=(300, -200))] * 5 + [
        made_face(position=(300 + EYES_CM * 10, -200 + 2 * EYES_CM * 10))
    ]
    motion = raw(faces)
    np.testing.assert_allclose(motion.translation[-1], [1, 2, 0], atol=1e-3)
    np.testing.assert_allclose(motion.scale, 1, atol=1e-5)


def test_coming_closer_is_scale():
    """A head that grows about the top of its neck does not move."""
    rest, near = HeadPose((0, 0, 0), (300, -200, 0), 10.0), HeadPose((0, 0, 0), (0, 0, 0), 12.0)
    shift = pivot_position(rest) - pivot_position(near)
    motion = raw([made_face()] * 5 + [made_face(position=shift[:2], scale=12.0)])
    assert motion.scale[-1] == pytest.approx(1.2, abs=1e-3)
    np.testing.assert_allclose(motion.translation[-1], 0, atol=1e-3)


@pytest.mark.parametrize("turn", [(10, 0, 0), (0, 9, 0), (4, -6, 8)])
def test_a_turn_about_the_neck_is_no_translation(turn):
    rest, turned = HeadPose((0, 0, 0), (300, -200, 0), 10.0), HeadPose(turn, (0, 0, 0), 10.0)
    shift = pivot_position(rest) - pivot_position(turned)
    motion = raw([made_face()] * 5 + [made_face(turn, shift[:2])])
    np.testing.assert_allclose(motion.translation[-1], 0, atol=1e-3)
    np.testing.assert_allclose(motion.rotation[-1], turn, atol=0.1)


@pytest.mark.parametrize(
    "pose", [((8, 0, 0), (304, -206), 10.0), ((-5, 6, 4), (297, -201), 10.6), ((0, -7, 0), (300, -200), 9.6)]
)
def test_a_mesh_rendered_with_the_motion_lands_where_the_drivers_head_was(pose):
    """The renderer and the reader agree on what turns about what, up to the renderer's soft limits."""
    rest = made_face()
    motion = raw([rest] * 5 + [made_face(*pose)])
    vertices = canonical_face().vertices
    eyes = float(np.linalg.norm(vertices[263] - vertices[33]))
    move = limited_head_move(motion.rotation[-1], motion.translation[-1], motion.scale[-1], 0.0, eyes)
    placed = 10.0 * (move.applied(vertices) + move.translation)[:, :2] * (1, -1) + (300, 200)
    driver = made_face(*pose).landmarks[:468, :2]
    moved = np.abs(driver - rest.landmarks[:468, :2]).max()
    assert np.abs(placed - driver).max() < 0.2 * moved


def test_size_of_the_video_does_not_matter():
    """The same performance filmed at twice the resolution makes the same motion."""
    poses = [((0, step, 0), (300 + step, -200 - step), 10 + step / 10) for step in range(8)]
    small = raw([made_face(*pose) for pose in poses])
    large = raw([made_face(turn, (2 * x, 2 * y), 2 * scale) for turn, (x, y), scale in poses])
    for name in ("rotation", "translation", "scale"):
        np.testing.assert_allclose(getattr(large, name), getattr(small, name), atol=1e-3)


def test_speech_is_absolute_and_feeling_is_relative():
    count = 100
    table = np.zeros((count, 52))
    table[:, BLENDSHAPE_INDEX["mouthSmileLeft"]] = 0.4
    table[50:, BLENDSHAPE_INDEX["mouthSmileLeft"]] = 0.7
    table[:, BLENDSHAPE_INDEX["jawOpen"]] = 0.3
    calibrated = calibrate_expression(table)
    assert calibrated[0, BLENDSHAPE_INDEX["mouthSmileLeft"]] == 0
    assert calibrated[-1, BLENDSHAPE_INDEX["mouthSmileLeft"]] == pytest.approx(0.3)
    np.testing.assert_allclose(calibrated[:, BLENDSHAPE_INDEX["jawOpen"]], 0.3)
    assert set(ABSOLUTE_SHAPES) <= set(BLENDSHAPE_NAMES)


def test_blinks_are_stretched_from_the_drivers_open_eyes():
    table = np.zeros((60, 52))
    column = BLENDSHAPE_INDEX["eyeBlinkLeft"]
    table[:, column] = 0.2
    table[30:34, column] = [0.44, 0.68, 0.74, 0.3]
    closure = calibrate_expression(table)[:, column]
    assert closure[0] == 0
    np.testing.assert_allclose(closure[30:34], [0.5, 1, 1, 0.1 / 0.48], atol=1e-6)


def test_driver_with_closed_eyes_keeps_them_closed():
    table = np.zeros((20, 52))
    table[:, BLENDSHAPE_INDEX["eyeBlinkRight"]] = 0.7
    np.testing.assert_allclose(calibrate_expression(table)[:, BLENDSHAPE_INDEX["eyeBlinkRight"]], 1)


def test_gaze_is_from_its_median():
    """A driver who reads a little to one side looks straight; less than that is looking the other way."""
    table = np.zeros((20, 52))
    inwards, outwards = BLENDSHAPE_INDEX["eyeLookInLeft"], BLENDSHAPE_INDEX["eyeLookOutLeft"]
    table[:, inwards] = 0.2
    table[18, inwards], table[19, inwards], table[19, outwards] = 0.5, 0.0, 0.1
    calibrated = calibrate_expression(table)
    assert calibrated[0, inwards] == calibrated[0, outwards] == 0
    assert calibrated[18, inwards] == pytest.approx(0.3)
    assert calibrated[19, outwards] == pytest.approx(0.3)
    assert calibrated[19, inwards] == 0


def test_without_calibration_readings_stay():
    motion = raw([made_face((4, 10, -3), mouthSmileLeft=0.4)] * 3, calibrate=False)
    np.testing.assert_allclose(motion.blendshape("mouthSmileLeft"), 0.4)
    np.testing.assert_allclose(motion.rotation, [[4, 10, -3]] * 3, atol=1e-2)


def test_smoothing_kernel():
    impulse = np.zeros(9)
    impulse[4] = 1
    np.testing.assert_allclose(smoothed_rows(impulse, 1)[3:6], [0.25, 0.5, 0.25])
    np.testing.assert_allclose(smoothed_rows(impulse, 2)[2:7], np.array([1, 4, 6, 4, 1]) / 16)
    np.testing.assert_allclose(smoothed_rows(np.full((5, 2), 3.0), 4), 3)
    np.testing.assert_allclose(smoothed_rows(impulse, 0), impulse)


def test_smoothing_spares_blinks_and_calms_the_head():
    faces = [made_face((0, (-1) ** step, 0), jawOpen=0.5 * (step == 10)) for step in range(20)]
    faces[5] = made_face((0, -1, 0), eyeBlinkLeft=0.8)
    motion = motion_from_faces(faces, 25)
    assert motion.blendshape("eyeBlinkLeft")[5] == 1
    assert motion.blendshape("eyeBlinkLeft")[4] == 0
    np.testing.assert_allclose(motion.blendshape("jawOpen")[9:12], [0.125, 0.25, 0.125], atol=1e-6)
    assert np.abs(motion.rotation[3:-3, 1]).max() < 0.1


GAP = [made_face((0, 0, 0), jawOpen=0.2)] * 5 + [None] * 10 + [made_face((0, 11, 0), jawOpen=0.75)] * 5


def test_missing_face_is_an_error_that_says_where():
    with pytest.raises(FaceNotFoundError, match=r"frame 5 of the video \(at 0\.20 s\).*interpolate"):
        motion_from_faces(GAP, 25)


def test_missing_face_previous():
    motion = raw(GAP, on_missing_face="previous")
    assert motion.frame_count == 20
    np.testing.assert_allclose(motion.blendshape("jawOpen")[5:15], 0.2)
    late = raw([None, None, *GAP], on_missing_face="previous")
    np.testing.assert_allclose(late.blendshape("jawOpen")[:3], 0.2)


def test_missing_face_interpolate():
    motion = raw(GAP, on_missing_face="interpolate")
    jaw = motion.blendshape("jawOpen")
    np.testing.assert_allclose(np.diff(jaw[4:16]), 0.05, atol=1e-6)
    np.testing.assert_allclose(np.diff(motion.rotation[4:16, 1]), 1, atol=1e-2)
    np.testing.assert_allclose(
        raw([*GAP, None], on_missing_face="interpolate").blendshape("jawOpen")[-2:], 0.75
    )


def test_missing_face_skip_drops_and_reports(caplog):
    with caplog.at_level(logging.WARNING):
        motion = raw(GAP, on_missing_face="skip")
    assert motion.frame_count == 10
    assert "10 of 20 frames" in caplog.text
    assert "5 (0.20 s)" in caplog.text


@pytest.mark.parametrize("policy", ["previous", "interpolate", "skip"])
def test_video_without_any_face(policy):
    with pytest.raises(FaceNotFoundError, match="any of the video's 7 frames"):
        motion_from_faces([None] * 7, 25, on_missing_face=policy)


def test_bad_requests():
    with pytest.raises(ValueError, match="no frames"):
        motion_from_faces([], 25)
    with pytest.raises(ValueError, match="guess"):
        motion_from_faces(GAP, 25, on_missing_face="guess")
    with pytest.raises(ValueError, match="smoothing is -1"):
        motion_from_faces(GAP, 25, smoothing=-1)
    with pytest.raises(ValueError, match="fps is 0"):
        motion_from_faces(GAP[:5], 0)


def test_progress_counts_and_cancels():
    calls = []
    raw(
        GAP,
        on_missing_face="previous",
        frame_total=20,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(index + 1, 20) for index in range(20)]
    taken = []

    def faces():
        for face in GAP:
            taken.append(face)
            yield face

    def cancel(done, total):
        if done == 3:
            raise InterruptedError("cancelled")

    with pytest.raises(InterruptedError, match="cancelled"):
        raw(faces(), progress=cancel)
    assert len(taken) == 3


def real_frames(path, count, every=1):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index >= count:
                return
            if index % every == 0:
                yield frame.to_ndarray(format="rgb24")


def test_real_talking_man(shared_data, landmarker):
    """His jaw opens and closes, the head stays within a few degrees, the lids rest open."""
    frames = real_frames(shared_data / "driving" / "man_talk_384_30fps_audio.mp4", 105)
    motion = motion_from_frames(frames, 30, landmarker)
    assert motion.frame_count == 105
    jaw = motion.blendshape("jawOpen")
    assert jaw.max() > 0.6
    assert jaw.min() < 0.1
    assert np.abs(motion.rotation).max() < 8
    assert np.median(motion.blendshape("eyeBlinkLeft")) == 0
    np.testing.assert_allclose(np.median(motion.rotation, axis=0), 0, atol=0.3)


def test_real_blink(shared_data, landmarker):
    """The man with glasses blinks: both eyes close fully, together."""
    frames = real_frames(shared_data / "driving" / "man_glasses_512x480_30fps.mp4", 90)
    motion = motion_from_frames(frames, 30, landmarker)
    left, right = motion.blendshape("eyeBlinkLeft"), motion.blendshape("eyeBlinkRight")
    assert left.max() == 1
    assert right.max() > 0.9
    assert np.corrcoef(left, right)[0, 1] > 0.9


def test_real_face_missing_for_ten_frames(shared_data, landmarker):
    """Ten grey frames: an error by default, a bridge when asked for, and the same man afterwards."""
    clip = list(real_frames(shared_data / "driving" / "man_smile_512_25fps.mp4", 40))
    whole = motion_from_frames(clip, 25, landmarker, smoothing=0)
    holed = [np.full_like(frame, 90) if 15 <= index < 25 else frame for index, frame in enumerate(clip)]
    with pytest.raises(FaceNotFoundError, match=r"frame 15 of the video \(at 0\.60 s\)"):
        motion_from_frames(holed, 25, landmarker)
    bridged = motion_from_frames(holed, 25, landmarker, smoothing=0, on_missing_face="interpolate")
    assert bridged.frame_count == 40
    jaw = BLENDSHAPE_INDEX["jawOpen"]
    np.testing.assert_allclose(bridged.expression[26:, jaw], whole.expression[26:, jaw], atol=0.05)
    assert motion_from_frames(holed, 25, landmarker, on_missing_face="skip").frame_count == 30


def test_real_video_without_a_face(landmarker):
    coffee = pytest.importorskip("skimage.data").coffee()
    with pytest.raises(FaceNotFoundError, match="any of the video's 5 frames"):
        motion_from_frames([coffee] * 5, 25, landmarker, on_missing_face="previous")
