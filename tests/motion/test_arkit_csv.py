"""Live Link Face tables: round trip, real quirks of the app's exports, and everything that can be wrong."""

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.face.pose import rotation_matrix
from talking_portrait.core_models.motion.arkit_csv import CSV_BLENDSHAPES, read_arkit_csv, write_arkit_csv
from talking_portrait.core_models.types import BLENDSHAPE_NAMES, IMPLICIT_KEYPOINTS, FaceMotion

HEADER = ["Timecode", "BlendShapeCount", *CSV_BLENDSHAPES, "HeadYaw", "HeadPitch", "HeadRoll"]


def random_motion(count, fps, seed=0):
    rng = np.random.default_rng(seed)
    rest = FaceMotion.at_rest(count, fps)
    rotation = rng.uniform([-80, -179, -179], [80, 179, 179], (count, 3))
    return FaceMotion(
        "blendshapes", fps, rng.uniform(0, 1, (count, 52)), rotation, rest.translation, rest.scale
    )


def timecode(frame_60):
    """An app's timecode, `frame_60` sixtieths after 13:13:58."""
    seconds = 58 + int(frame_60) // 60
    return f"13:{13 + seconds // 60:02d}:{seconds % 60:02d}:{frame_60 % 60:06.3f}"


def table(count=6, step=2.0, **values):
    """A header and `count` rows, `step` sixtieths apart; `values` by column name, the rest 0."""
    rows = [HEADER]
    for index in range(count):
        cells = dict.fromkeys(HEADER, "0.0") | {
            "Timecode": timecode(index * step),
            "BlendShapeCount": "61",
        }
        cells |= {name: str(column[index]) for name, column in values.items()}
        rows.append([cells[name] for name in HEADER])
    return rows


def write_rows(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


class TestRoundTrip:
    @pytest.mark.parametrize("fps", [12.5, 23, 23.976, 24, 25, 29.97, 30, 50, 60])
    def test_our_own_table(self, tmp_path, fps):
        motion = random_motion(40, fps)
        write_arkit_csv(motion, tmp_path / "motion.csv")
        read = read_arkit_csv(tmp_path / "motion.csv")
        assert (read.fps, read.frame_count) == (fps, 40)
        np.testing.assert_allclose(read.expression, motion.expression, atol=1e-4)
        np.testing.assert_allclose(read.rotation, motion.rotation, atol=1e-4)

    @settings(max_examples=20)
    @given(count=st.integers(2, 30), seed=st.integers(0, 1000))
    def test_any_length(self, tmp_path_factory, count, seed):
        path = tmp_path_factory.mktemp("csv") / "motion.csv"
        motion = random_motion(count, 25, seed)
        write_arkit_csv(motion, path)
        np.testing.assert_allclose(read_arkit_csv(path).expression, motion.expression, atol=1e-4)
        np.testing.assert_allclose(read_arkit_csv(path, fps=50).fps, 50)

    def test_over_an_hour_and_over_midnight(self, tmp_path):
        rows = table(4)
        for row, time in zip(
            rows[1:],
            ("23:59:59:56.000", "23:59:59:58.000", "00:00:00:00.000", "00:00:00:02.000"),
            strict=True,
        ):
            row[0] = time
        assert read_arkit_csv(write_rows(tmp_path / "night.csv", rows)).fps == 30

    def test_the_layout_is_the_apps(self, tmp_path):
        write_arkit_csv(random_motion(2, 30), tmp_path / "motion.csv")
        with open(tmp_path / "motion.csv", newline="") as file:
            header, first, second = list(csv.reader(file))
        assert header[:3] == ["Timecode", "BlendShapeCount", "EyeBlinkLeft"]
        assert header[54:57] == ["HeadYaw", "HeadPitch", "HeadRoll"]
        assert header[57:] == [
            f"{eye}Eye{angle}" for eye in ("Left", "Right") for angle in ("Yaw", "Pitch", "Roll")
        ]
        assert first[:2] == ["00:00:00:00.000", "61"]
        assert second[0] == "00:00:00:02.000"
        assert sorted(name.lower() for name in header[2:54]) == sorted(
            name.lower() for name in BLENDSHAPE_NAMES
        )

    def test_only_blendshapes_can_be_written(self, tmp_path):
        with pytest.raises(ValueError, match="choose LivePortrait"):
            write_arkit_csv(FaceMotion.at_rest(3, 25, IMPLICIT_KEYPOINTS), tmp_path / "motion.csv")
        assert not list(tmp_path.iterdir())

    def test_an_unwritable_folder(self, tmp_path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(OSError, match="cannot write into the folder"):
            write_arkit_csv(random_motion(2, 25), tmp_path / "file" / "motion.csv")
        with pytest.raises(FileNotFoundError, match="does not exist"):
            write_arkit_csv(random_motion(2, 25), tmp_path / "missing" / "motion.csv")

    def test_what_the_table_cannot_hold_is_said(self, tmp_path, caplog):
        motion = FaceMotion(
            "blendshapes", 25, np.zeros((2, 52)), np.zeros((2, 3)), np.ones((2, 3)), np.ones(2)
        )
        write_arkit_csv(motion, tmp_path / "motion.csv")
        assert "no columns for translation and scale" in caplog.text


class TestRealExports:
    def test_thirty_frames_a_second_in_sixtieths(self, tmp_path):
        """As the app writes: 30 rows a second, timecode steps of 1.9996 sixtieths."""
        path = write_rows(tmp_path / "take.csv", table(60, step=1.9996))
        motion = read_arkit_csv(path)
        assert (motion.fps, motion.frame_count) == (30, 60)

    def test_columns_in_any_order_and_case(self, tmp_path):
        rows = table(3, JawOpen=[0.1, 0.2, 0.3], MouthSmileLeft=[0.4, 0.5, 0.6])
        order = np.random.default_rng(0).permutation(len(HEADER))
        shuffled = [[row[index] for index in order] for row in rows]
        shuffled[0] = [f" {name.lower()} " for name in shuffled[0]]
        motion = read_arkit_csv(write_rows(tmp_path / "shuffled.csv", shuffled))
        np.testing.assert_allclose(motion.blendshape("jawOpen"), [0.1, 0.2, 0.3], atol=1e-6)
        np.testing.assert_allclose(motion.blendshape("mouthSmileLeft"), [0.4, 0.5, 0.6], atol=1e-6)

    def test_a_byte_order_mark_and_empty_lines(self, tmp_path):
        path = write_rows(tmp_path / "take.csv", [*table(3), []])
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert read_arkit_csv(path).frame_count == 3

    def test_head_angles_are_radians_with_the_apps_signs(self, tmp_path):
        """Looking down is positive pitch in both; the person's left is -yaw there, +yaw here."""
        path = write_rows(
            tmp_path / "head.csv", table(2, HeadPitch=[0.2, 0.2], HeadYaw=[-0.5, -0.5], HeadRoll=[0.1, 0.1])
        )
        rotation = read_arkit_csv(path).rotation[0]
        np.testing.assert_allclose(rotation, np.degrees([0.2, 0.5, -0.1]), atol=1e-4)

    def test_degrees_when_told_and_a_hint_when_not(self, tmp_path):
        path = write_rows(tmp_path / "head.csv", table(2, HeadYaw=[-20, -30]))
        with pytest.raises(ValueError, match="reach 30, too much for radians; set angle_unit to 'degrees'"):
            read_arkit_csv(path)
        np.testing.assert_allclose(
            read_arkit_csv(path, angle_unit="degrees").rotation[:, 1], [20, 30], atol=1e-4
        )
        with pytest.raises(ValueError, match="angle_unit is 'gon'"):
            read_arkit_csv(path, angle_unit="gon")

    def test_the_median_pose_can_be_the_rest(self, tmp_path):
        path = write_rows(tmp_path / "head.csv", table(3, HeadPitch=[0.3, 0.3, 0.5], HeadYaw=[0.4, 0.4, 0.4]))
        motion = read_arkit_csv(path, centre_pose=True)
        np.testing.assert_allclose(motion.rotation[:2], 0, atol=1e-4)
        absolute = read_arkit_csv(path)
        np.testing.assert_allclose(
            rotation_matrix(motion.rotation[2]),
            rotation_matrix(absolute.rotation[0]).T @ rotation_matrix(absolute.rotation[2]),
            atol=1e-5,
        )

    def test_51_coefficients_and_no_head(self, tmp_path):
        rows = [row[: HEADER.index("TongueOut")] for row in table(3, JawOpen=[0.1, 0.2, 0.3])]
        motion = read_arkit_csv(write_rows(tmp_path / "face.csv", rows))
        assert not motion.rotation.any()
        assert not motion.blendshape("tongueOut").any()
        assert motion.blendshape("jawOpen")[2] == pytest.approx(0.3)

    def test_dropped_and_faceless_rows_are_filled_in(self, tmp_path):
        rows = table(10, JawOpen=np.arange(10) / 10)
        rows[5] = [rows[5][0], "0"]  # the app lost the face: no more fields
        del rows[8]  # the app dropped a row
        motion = read_arkit_csv(write_rows(tmp_path / "gaps.csv", rows))
        assert (motion.fps, motion.frame_count) == (30, 10)
        np.testing.assert_allclose(motion.blendshape("jawOpen"), np.arange(10) / 10, atol=1e-3)

    def test_a_given_rate_needs_no_timecode(self, tmp_path):
        rows = [row[1:] for row in table(5)]
        path = write_rows(tmp_path / "take.csv", rows)
        assert read_arkit_csv(path, fps=24).fps == 24
        with pytest.raises(ValueError, match="no Timecode column: give the rate of its rows as fps"):
            read_arkit_csv(path)

    def test_slightly_too_large_values_are_clipped(self, tmp_path, caplog):
        path = write_rows(tmp_path / "take.csv", table(2, JawOpen=[1.2, -0.1]))
        assert read_arkit_csv(path).blendshape("jawOpen").tolist() == [1, 0]
        assert "clipped" in caplog.text


class TestBadTables:
    def test_missing_columns_are_all_named(self, tmp_path):
        gone = ("JawOpen", "EyeBlinkRight", "HeadRoll")
        keep = [index for index, name in enumerate(HEADER) if name not in gone]
        path = write_rows(tmp_path / "take.csv", [[row[index] for index in keep] for row in table(3)])
        with pytest.raises(ValueError, match=r"lacks 3 columns .*: EyeBlinkRight, JawOpen, HeadRoll"):
            read_arkit_csv(path)

    def test_empty_files(self, tmp_path):
        (tmp_path / "empty.csv").write_text("")
        with pytest.raises(ValueError, match=r"empty\.csv is empty"):
            read_arkit_csv(tmp_path / "empty.csv")
        with pytest.raises(ValueError, match="a header but no frames"):
            read_arkit_csv(write_rows(tmp_path / "header.csv", table(0)))
        with pytest.raises(ValueError, match="no row has a face"):
            read_arkit_csv(
                write_rows(tmp_path / "blind.csv", [HEADER, [timecode(0), "0"], [timecode(2), "0"]])
            )

    def test_a_row_of_another_length(self, tmp_path):
        rows = table(4)
        rows[3] = rows[3][:-2]
        with pytest.raises(
            ValueError, match=f"line 4: {len(HEADER) - 2} fields, but the header has {len(HEADER)}"
        ):
            read_arkit_csv(write_rows(tmp_path / "short.csv", rows))
        rows[3] = table(4)[3] + ["0", "0", "0"]
        with pytest.raises(ValueError, match=f"line 4: {len(HEADER) + 3} fields"):
            read_arkit_csv(write_rows(tmp_path / "long.csv", rows))

    @pytest.mark.parametrize("cell", ["abc", "", "nan", "inf", "0,5"])
    def test_a_cell_that_is_no_number(self, tmp_path, cell):
        rows = table(4)
        rows[2][HEADER.index("MouthPucker")] = cell
        with pytest.raises(ValueError, match=f"line 3, column MouthPucker: '{cell}' is not a number"):
            read_arkit_csv(write_rows(tmp_path / "take.csv", rows))

    def test_percent(self, tmp_path):
        path = write_rows(tmp_path / "take.csv", table(3, JawOpen=[0, 55, 20]))
        with pytest.raises(ValueError, match="line 3, column JawOpen: 55 is far above 1"):
            read_arkit_csv(path)

    @pytest.mark.parametrize(
        ("time", "message"),
        [("12.5", "'12.5' is not HH:MM:SS:FF.fff"), ("13:13:58:00.000", "is not later than the one before")],
    )
    def test_bad_timecodes(self, tmp_path, time, message):
        rows = table(4)
        rows[3][0] = time
        with pytest.raises(ValueError, match=f"line 4.*{message}"):
            read_arkit_csv(write_rows(tmp_path / "take.csv", rows))

    def test_one_frame_shows_no_rate(self, tmp_path):
        path = write_rows(tmp_path / "take.csv", table(1))
        with pytest.raises(ValueError, match="one frame only"):
            read_arkit_csv(path)
        assert read_arkit_csv(path, fps=25).frame_count == 1

    def test_not_text(self, tmp_path):
        (tmp_path / "noise.csv").write_bytes(bytes(range(256)) * 4)
        with pytest.raises(ValueError, match="not a CSV text file"):
            read_arkit_csv(tmp_path / "noise.csv")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_arkit_csv(tmp_path / "missing.csv")
