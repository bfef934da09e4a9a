"""Implicit keypoints against numbers of the released LivePortrait: geometry, smoothing, and driving in every mode."""

import json
from dataclasses import replace

import numpy as np
import pytest
from talking_portrait.core_models.face.opening_ratios import opening_ratios_203
from talking_portrait.core_models.motion.driving_picture import LIPS_AT_REST
from talking_portrait.core_models.motion.kalman_smoothing import kalman_smoothed
from talking_portrait.core_models.motion.keypoint_driving import (
    DrivingParameters,
    drive_keypoints,
    hull_ratio,
    kept_eye_opening,
    motion_between,
    moved_readings,
)
from talking_portrait.core_models.motion.keypoint_geometry import (
    KeypointReadings,
    degrees_from_bins,
    extractor_rotation,
    head_angles,
    keypoint_rotation,
    placed_keypoints,
)
from talking_portrait.core_models.motion.keypoint_readings import motion_from_readings
from talking_portrait.core_models.motion.keypoint_retargeting import eye_delta, lip_delta, stitched
from talking_portrait.core_models.rendering.liveportrait.retargeting import RetargetingNetworks

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def read_case(liveportrait_cases, liveportrait_tools):
    def read(name: str):
        case = json.loads((liveportrait_cases / f"{name}.json").read_text())
        inputs = {
            spec["arg"]: liveportrait_tools.make_input(spec).double().numpy() for spec in case["inputs"]
        }
        with np.load(liveportrait_cases / f"{name}.npz") as arrays:
            return case, inputs, {key: arrays[key] for key in arrays.files}

    return read


@pytest.fixture(scope="module")
def networks(liveportrait_cases, liveportrait_tools):
    """Makes the three networks with a case's gains."""

    def make(gain) -> RetargetingNetworks:
        module = RetargetingNetworks()
        for part in ("stitching", "eye", "lip"):
            shapes = json.loads((liveportrait_cases / f"state_dict_stitching_{part}.json").read_text())
            part_gain = gain[part] if isinstance(gain, dict) else gain
            getattr(module, part).load_state_dict(liveportrait_tools.state_dict_for(shapes, part_gain))
        return module.eval()

    return make


@pytest.fixture(scope="module")
def assert_agrees(liveportrait_tools):
    """Compares an output of a case, as sampled there, within a share of its spread."""

    def check(found, case: dict, arrays: dict, name: str) -> None:
        output = case["outputs"][name]
        assert list(np.shape(found)) == output["shape"], name
        difference = np.abs(
            liveportrait_tools.sample(found, output["stride"]).astype(np.float64) - arrays[name]
        ).max()
        assert difference <= TOLERANCE * max(output["std"], 1e-2), f"{name} is off by {difference}"

    return check


def test_pose_bins_and_rotation(read_case, assert_agrees):
    case, inputs, arrays = read_case("lp_geometry")
    for name in ("pitch", "yaw", "roll"):
        assert_agrees(degrees_from_bins(inputs[f"{name}_logits"]), case, arrays, f"{name}_deg")
    angles = inputs["angles_deg"]
    assert_agrees(degrees_from_bins(angles[:, :1]), case, arrays, "passthrough_deg")
    rotation = extractor_rotation(angles)
    for name in ("rot", "rot_1d"):
        assert_agrees(rotation, case, arrays, name)
    np.testing.assert_allclose(keypoint_rotation(head_angles(rotation)), rotation, atol=1e-9)


@pytest.fixture(scope="module")
def geometry(read_case):
    case, inputs, arrays = read_case("lp_geometry")
    angles = np.stack([degrees_from_bins(inputs[f"{n}_logits"]) for n in ("pitch", "yaw", "roll")], axis=1)
    count = len(angles)
    points = placed_keypoints(
        inputs["kp"].reshape(count, 21, 3),
        extractor_rotation(angles),
        inputs["exp"].reshape(count, 21, 3),
        inputs["scale"].reshape(count),
        inputs["t"],
    )
    return case, inputs, arrays, points


def test_keypoints_where_the_release_has_them(geometry, assert_agrees):
    case, _, arrays, points = geometry
    assert_agrees(points, case, arrays, "x_s")


def test_stitching_and_retargeting(geometry, networks, assert_agrees):
    case, inputs, arrays, points = geometry
    module = networks(case["weights"]["gain"])
    driven = inputs["kp_driving"]
    both = np.concatenate([points.reshape(len(points), -1), driven.reshape(len(points), -1)], axis=1)
    assert_agrees(both, case, arrays, "concat_feat")
    assert_agrees(stitched(module.stitching, points, driven), case, arrays, "stitched")
    eyes, lips = inputs["eye_ratio"], inputs["lip_ratio"]
    openings = np.concatenate([eyes[:, :2], lips[:, :1]], axis=1)
    assert_agrees(eye_delta(module.eye, points, openings, eyes[:, 2]), case, arrays, "eye_delta")
    assert_agrees(lip_delta(module.lip, points, openings, lips[:, 1]), case, arrays, "lip_delta")


def test_opening_ratios_and_the_size_of_two_faces(geometry, assert_agrees):
    case, inputs, arrays, points = geometry
    ratios = opening_ratios_203(inputs["lmk"])
    assert_agrees(ratios[:, :2], case, arrays, "eye_close_ratio")
    assert_agrees(ratios[:, 2:], case, arrays, "lip_close_ratio")
    assert_agrees([hull_ratio(points[0], inputs["kp_driving"][0])], case, arrays, "motion_multiplier")


def test_kalman_smoothing(read_case, assert_agrees):
    case, inputs, arrays = read_case("lp_kalman_smooth")
    sequence = np.cumsum(inputs["steps"].astype(np.float32), axis=0)
    assert_agrees(sequence, case, arrays, "input_sequence")
    settings = case["constructor"]
    found = kalman_smoothed(sequence, settings["observation_variance"], settings["process_variance"])
    assert_agrees(found.reshape(case["outputs"]["smoothed"]["shape"]), case, arrays, "smoothed")


def readings(inputs: dict, who: str, count: int) -> KeypointReadings:
    part = {name: inputs[f"{who}_{name}"][:count] for name in ("angles", "exp", "t", "scale")}
    return KeypointReadings(
        canonical=inputs[f"{who}_kp"],
        expression=part["exp"].reshape(count, 21, 3),
        rotation=extractor_rotation(part["angles"]),
        translation=part["t"].reshape(count, 3),
        scale=part["scale"].reshape(count),
    )


REGION_NAMES = {"all": "all", "exp": "expression", "pose": "pose", "lip": "lips", "eyes": "eyes"}


def parameters_of(variant: dict, inputs: dict) -> DrivingParameters:
    """The release's flags as our parameters; the defaults are those that the case names."""
    return DrivingParameters(
        mode="relative" if variant.get("flag_relative_motion", True) else "absolute",
        region=REGION_NAMES[variant.get("animation_region", "all")],
        fit_expression=variant.get("driving_option") == "expression-friendly",
        stitching=variant.get("flag_stitching", True),
        eye_retargeting=variant.get("flag_eye_retargeting", False),
        lip_retargeting=variant.get("flag_lip_retargeting", False),
        close_lips=variant.get("flag_normalize_lip", False),
        keep_source_eyes=variant.get("flag_source_video_eye_retargeting", False),
        eye_opening=kept_eye_opening(inputs["source_eyes"][0, 0]),
        strength=variant.get("driving_multiplier", 1.0),
        smoothing=variant.get("driving_smooth_observation_variance", 3e-7),
    )


def driver_motion(inputs: dict, count: int):
    openings = np.concatenate([inputs["driving_eyes"][:count, 0], inputs["driving_lip"][:count, 0]], axis=1)
    driver = replace(readings(inputs, "driving", count), openings=openings)
    return motion_from_readings(driver, 25.0)


@pytest.fixture(scope="module")
def drive_case(read_case, networks):
    case, inputs, arrays = read_case("lp_drive")
    return case, inputs, arrays, networks(case["weights"]["gain"])


def test_driving_in_every_mode(drive_case, assert_agrees):
    case, inputs, arrays, module = drive_case
    assert set(case["variants"]) == set(arrays)
    for name, variant in case["variants"].items():
        driving_count = variant["driving_frames"]
        source_count = len(inputs["source_angles"]) if variant["source"] == "video" else 1
        if source_count > 1 and driving_count > 1:  # the release goes on for the shorter of the two films
            source_count = driving_count = min(source_count, driving_count)
        source = readings(inputs, "source", source_count)
        source = replace(source, openings=opening_ratios_203(inputs["source_lmk"][:source_count]))
        motion = driver_motion(inputs, driving_count)
        driven = drive_keypoints(source, motion, parameters_of(variant, inputs), module)
        assert_agrees(driven.keypoints, case, arrays, name)
        # What travels on the wire to the renderer is the same again.
        wired = moved_readings(source, motion_between(source, driven, 25.0))
        assert_agrees(wired.keypoints, case, arrays, name)


def test_constant_of_driving_pictures(liveportrait_cases):
    published = json.loads((liveportrait_cases / "lip_array.json").read_text())["values"]
    np.testing.assert_allclose(LIPS_AT_REST, published, rtol=0, atol=1e-12)
