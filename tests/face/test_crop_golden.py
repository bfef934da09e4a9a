"""Crop geometry, crops and paste-back against numbers of the released LivePortrait code."""

import importlib.util
import json
import re
import sys

import cv2
import numpy as np
import pytest
from talking_portrait.core_models.face.anchored_crop import FaceSquare, anchored_square
from talking_portrait.core_models.face.crop import apply_affine, crop_face, invert_affine
from talking_portrait.core_models.face.pasting import plan_paste_back
from talking_portrait.core_models.motion.keypoint_extraction import network_picture

CASE = "lp_crop_paste"
PIXELS = 1e-3
GREY_LEVELS = 1
NUMBER = r"-?\d+(?:\.\d+)?"
FLAGS = {"INTER_NEAREST": cv2.INTER_NEAREST, "INTER_LINEAR": cv2.INTER_LINEAR, "INTER_AREA": cv2.INTER_AREA}


class Golden:
    """One case: its inputs made from their recipes, and the outputs the release gave."""

    def __init__(self, folder):
        case = folder / "liveportrait_kdtalker" / CASE
        self.outputs = json.loads(case.with_suffix(".json").read_text())["outputs"]
        (self.inputs,) = json.loads(case.with_suffix(".json").read_text())["inputs"]
        with np.load(case.with_suffix(".npz")) as arrays:
            self.arrays = dict(arrays)
        self.image = image_from_recipe(self.inputs["image"], folder)
        self.mask = mask_from_recipe(self.inputs["mask"])

    @property
    def counts(self):
        return [int(name[3:]) for name in self.outputs if re.fullmatch(r"pts\d+", name)]

    def array(self, name):
        """A whole output in its shape; only those of stride 1 are whole."""
        assert self.outputs[name]["stride"] == 1
        return self.arrays[name].reshape(self.outputs[name]["shape"])

    def square(self, count, with_vx):
        vx_ratio = self.inputs["vx_ratio"] if with_vx else 0.0
        return anchored_square(
            self.array(f"pts{count}"), self.inputs["scale"], vx_ratio, self.inputs["vy_ratio"]
        )

    def source_crop(self):
        affine = self.square(203, with_vx=False).frame_to_crop(self.inputs["dsize"])
        return as_released(self.image, invert_affine(affine), self.inputs["dsize"])

    def plan(self):
        affine = self.square(203, with_vx=False).crop_to_frame(self.inputs["dsize"])
        size = (self.image.shape[1], self.image.shape[0])
        return plan_paste_back(size, self.inputs["dsize"], affine, self.mask)

    def assert_near(self, name, found, tolerance):
        wanted = self.outputs[name]
        found = np.asarray(found)
        assert list(found.shape) == wanted["shape"]
        sampled = found.reshape(-1)[:: wanted["stride"]].astype(np.float64)
        np.testing.assert_allclose(sampled, self.arrays[name].astype(np.float64), rtol=0, atol=tolerance)

    def share_beyond(self, name, found, tolerance):
        """Share of the compared values that are further off than the tolerance."""
        sampled = np.asarray(found).reshape(-1)[:: self.outputs[name]["stride"]].astype(np.float64)
        return float((np.abs(sampled - self.arrays[name]) > tolerance).mean())


def integers(text):
    return [int(number) for number in re.findall(r"-?\d+", text)]


def image_from_recipe(recipe, folder):
    """Build "cv2.resize(input_for(name, shape, low, high).astype(uint8), size, flag)"."""
    match = re.fullmatch(
        rf"cv2\.resize\(input_for\('([^']+)', \(([^)]*)\), ({NUMBER}), ({NUMBER})\)\.astype\(uint8\), "
        r"\(([^)]*)\), (\w+)\)",
        recipe,
    )
    name, shape, low, high, size, flag = match.groups()
    values = deterministic_inputs(folder).input_for(name, tuple(integers(shape)), float(low), float(high))
    return cv2.resize(values.numpy().astype(np.uint8), tuple(integers(size)), interpolation=FLAGS[flag])


def mask_from_recipe(recipe):
    """Build "uint8 HxWx3 zeros, [top:-bottom,left:-right]=value, cv2.blur NxN"; one channel is enough."""
    height, width = integers(re.search(r"uint8 (\d+x\d+)x3 zeros", recipe).group(1).replace("x", " "))
    rows, columns, value = re.search(r"\[([^,]*),([^\]]*)\]=(\d+)", recipe).groups()
    blur = integers(re.search(r"cv2\.blur (\d+x\d+)", recipe).group(1).replace("x", " "))
    mask = np.zeros((height, width), np.uint8)
    mask[slice(*integers(rows)), slice(*integers(columns))] = int(value)
    return cv2.blur(mask, tuple(blur))


def deterministic_inputs(folder):
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location(
        "deterministic_weights_of_crops", folder / "deterministic_weights.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def as_released(frame, crop_to_frame, size):
    """The crop sampled without averaging, black outside the frame."""
    return crop_face(frame, crop_to_frame, size, cv2.BORDER_CONSTANT, averaged=False)


@pytest.fixture(scope="module")
def golden(golden_folder):
    return Golden(golden_folder)


def test_every_output_is_compared(golden):
    per_set = ("pts", "center", "size", "angle", "M_o2c", "M_c2o", "bbox", "bbox_rot")
    compared = {f"{name}{count}" for count in golden.counts for name in per_set}
    compared |= {"pt_crop203", "img_crop203", "M_o2c203_norot", "mask_ori", "pasted"}
    compared |= {"bbox_M_o2c", "bbox_img_crop", "crop256_area"}
    assert compared == set(golden.outputs)
    assert {203, 106, 101, 68, 5, 9} <= set(golden.counts)


def test_squares_of_every_landmark_set(golden):
    for count in golden.counts:
        square = golden.square(count, with_vx=True)
        golden.assert_near(f"center{count}", square.centre, PIXELS)
        golden.assert_near(f"size{count}", [square.side] * 2, PIXELS)
        golden.assert_near(f"angle{count}", [square.angle], 1e-6)
        golden.assert_near(f"bbox{count}", square.upright().corners(), PIXELS)
        golden.assert_near(f"bbox_rot{count}", square.corners(), PIXELS)


def three_by_three(affine):
    return np.concatenate([affine, [[0, 0, 1]]])


def test_affines_of_every_landmark_set(golden):
    size = golden.inputs["dsize"]
    for count in golden.counts:
        square = golden.square(count, with_vx=False)
        golden.assert_near(f"M_o2c{count}", three_by_three(square.frame_to_crop(size)), PIXELS)
        golden.assert_near(f"M_c2o{count}", three_by_three(square.crop_to_frame(size)), PIXELS)
        inverse = invert_affine(square.frame_to_crop(size))
        np.testing.assert_allclose(inverse, square.crop_to_frame(size), atol=PIXELS)
    upright = golden.square(203, with_vx=False).upright()
    golden.assert_near("M_o2c203_norot", three_by_three(upright.frame_to_crop(size)), PIXELS)
    points = apply_affine(golden.square(203, with_vx=False).frame_to_crop(size), golden.array("pts203"))
    golden.assert_near("pt_crop203", points, PIXELS)


def test_crops(golden):
    crop = golden.source_crop()
    golden.assert_near("img_crop203", crop, GREY_LEVELS)
    side = golden.outputs["crop256_area"]["shape"][0]
    golden.assert_near("crop256_area", network_picture(crop, size=side), GREY_LEVELS)
    left, top, right, bottom = json.loads(golden.inputs["bbox"])
    box = FaceSquare(((left + right) / 2, (top + bottom) / 2), right - left)
    size = golden.inputs["dsize"]
    golden.assert_near("bbox_M_o2c", three_by_three(box.frame_to_crop(size)), PIXELS)
    golden.assert_near("bbox_img_crop", as_released(golden.image, box.crop_to_frame(size), size), GREY_LEVELS)


def test_paste_back(golden):
    plan = golden.plan()
    share = np.zeros(golden.image.shape[:2], np.float32)
    left, top, right, bottom = plan.box
    share[top:bottom, left:right] = plan.share
    golden.assert_near("mask_ori", np.repeat(share[..., None], 3, axis=2), 1 / 255 + 1e-6)
    assert re.fullmatch(r"255 - img_crop203", golden.inputs["pasted_image"])
    pasted = plan.paste(golden.image, 255 - golden.source_crop())
    golden.assert_near("pasted", pasted, GREY_LEVELS + 1)  # the release truncates, the plan rounds
    assert golden.share_beyond("pasted", pasted, GREY_LEVELS) < 1e-3
    np.testing.assert_array_equal(pasted[share == 0], golden.image[share == 0])
