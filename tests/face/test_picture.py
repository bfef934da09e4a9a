"""Pictures of every kind become (H, W, 3) uint8; what is none says so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from talking_portrait.core_models.face.picture import BACKGROUND, load_picture, picture_from_array


@pytest.fixture
def colours():
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)


def save(picture, path, **options):
    Image.fromarray(picture).save(path, **options)
    return path


def test_png_is_read_unchanged(colours, tmp_path):
    np.testing.assert_array_equal(load_picture(save(colours, tmp_path / "a.png")), colours)


def test_grey_becomes_three_equal_channels(colours, tmp_path):
    loaded = load_picture(save(colours[..., 0], tmp_path / "grey.png"))
    np.testing.assert_array_equal(loaded, np.repeat(colours[..., :1], 3, axis=2))


def test_sixteen_bit_grey_keeps_its_tones(colours, tmp_path):
    """16-bit grey is scaled, not clipped to white."""
    wide = colours[..., 0].astype(np.uint16) * 257
    loaded = load_picture(save(wide, tmp_path / "wide.png"))
    np.testing.assert_array_equal(loaded[..., 1], colours[..., 0])


def test_transparent_parts_lie_over_neutral_grey(colours, tmp_path):
    alpha = np.zeros(colours.shape[:2], np.uint8)
    alpha[:, 10:] = 255
    loaded = load_picture(save(np.dstack([colours, alpha]), tmp_path / "rgba.png"))
    assert (loaded[:, :10] == BACKGROUND).all()
    np.testing.assert_array_equal(loaded[:, 10:], colours[:, 10:])


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    loaded = load_picture(tmp_path / "palette.png")
    assert loaded[0, 0].tolist() == [200, 100, 50]
    assert loaded[3, 3].tolist() == list(BACKGROUND)


def test_cmyk_and_float_files(colours, tmp_path):
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert load_picture(tmp_path / "cmyk.jpg").shape == colours.shape
    Image.fromarray(np.full((3, 5), 0.5, np.float32)).save(tmp_path / "float.tiff")
    assert load_picture(tmp_path / "float.tiff")[0, 0].tolist() == [128, 128, 128]


def test_phone_orientation_is_applied(colours, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the phone turned: rotate by a quarter clockwise to view
    loaded = load_picture(save(colours, tmp_path / "turned.png", exif=exif))
    np.testing.assert_array_equal(loaded, np.rot90(colours, -1))


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (6, 6), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    red, green, _ = load_picture(tmp_path / "a.gif")[0, 0]
    assert red > 200 > green


def test_what_is_not_a_picture_says_so(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("these are words")
    with pytest.raises(ValueError, match=r"notes\.png is not a picture"):
        load_picture(path)


def test_cut_off_file_is_damaged(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    path = save(noise, tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="damaged"):
        load_picture(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_picture(tmp_path / "none.png")
    with pytest.raises(OSError):  # noqa: PT011  the system's own error differs
        load_picture(tmp_path)


@given(st.sampled_from([1, 3, 4]), st.integers(1, 5), st.integers(1, 5))
def test_arrays_of_all_kinds_agree(channels, height, width):
    bytes_ = np.random.default_rng(height * 7 + width).integers(
        0, 256, (height, width, channels), dtype=np.uint8
    )
    picture = picture_from_array(bytes_)
    assert picture.shape == (height, width, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture_from_array(bytes_.astype(np.float32) / 255), picture)
    np.testing.assert_array_equal(picture_from_array(bytes_.astype(np.uint16) * 257), picture)


def test_flat_array_and_small_overshoot():
    assert picture_from_array(np.ones((2, 3), np.float32)).tolist() == [[[255] * 3] * 3] * 2
    assert picture_from_array(np.full((1, 1, 3), 1.04)).max() == 255


def test_result_shares_nothing(colours):
    picture = picture_from_array(colours)
    picture[:] = 0
    assert colours.any()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2, 5), np.uint8), "(2, 2, 5)"),
        (np.zeros((1, 2, 2, 3), np.uint8), "(1, 2, 2, 3)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.full((2, 2, 3), np.nan), "NaN"),
        (np.full((2, 2, 3), 200.0), "0..1"),
        (np.zeros((2, 2, 3), np.int64), "int64"),
    ],
)
def test_arrays_that_are_no_pictures(array, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        picture_from_array(array)
