"""ComfyUI's own nodes as the headless runner brings them."""

import json

import av
import numpy as np
import pytest
from PIL import Image
from talking_portrait.core_models.audio.decode import Sound, decode_sound, sound_to_comfy
from talking_portrait.core_models.video_file import read_video_frames, write_video
from talking_portrait.headless.core_nodes import CORE_NODES
from talking_portrait.headless.run_command import run_graph, saved_files, using_folders
from talking_portrait.headless.validation import GraphValidationError
from talking_portrait.runtime.host import host

torch = pytest.importorskip("torch")


@pytest.fixture
def folders(tmp_path):
    """Input, output and temporary folders of their own."""
    (tmp_path / "input").mkdir()
    with using_folders(input=tmp_path / "input", output=tmp_path / "out", temp=tmp_path / "temp"):
        yield tmp_path


@pytest.fixture
def picture(folders):
    """A 6x4 picture, red growing to the right; saved as picture.png."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0] = np.arange(6) * 50
    Image.fromarray(pixels).save(folders / "input" / "picture.png")
    return pixels


def load(name):
    return CORE_NODES["LoadImage"]().load_image(name)


class TestLoadImage:
    def test_values(self, picture):
        image, mask = load("picture.png")
        assert image.dtype == torch.float32
        np.testing.assert_array_equal(np.round(image.numpy() * 255)[0], picture)
        assert tuple(mask.shape) == (1, 64, 64)
        assert mask.max() == 0

    def test_transparency_becomes_the_mask(self, folders):
        pixels = np.zeros((2, 3, 4), np.uint8)
        pixels[0, :, 3] = 255
        Image.fromarray(pixels).save(folders / "input" / "a.png")
        _, mask = load("a.png")
        np.testing.assert_array_equal(mask[0].numpy(), [[0, 0, 0], [1, 1, 1]])

    def test_picture_lying_on_its_side_is_turned_upright(self, folders):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        Image.fromarray(np.zeros((2, 5, 3), np.uint8)).save(folders / "input" / "a.jpg", exif=exif)
        assert tuple(load("a.jpg")[0].shape) == (1, 5, 2, 3)

    def test_sixteen_bits(self, folders):
        values = np.array([[0, 32896, 65535]], np.uint16)
        Image.fromarray(values).save(folders / "input" / "a.png")
        image, _ = load("a.png")
        np.testing.assert_allclose(image[0, 0, :, 0], [0, 128 / 255, 1], atol=1e-6)

    def test_animation_gives_all_its_pictures(self, folders):
        frames = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (0, 100, 200)]
        frames[0].save(folders / "input" / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
        image, mask = load("a.webp")
        np.testing.assert_allclose(image[:, 0, 0, 0] * 255, [0, 100, 200], atol=1)
        assert len(mask) == 3

    def test_other_folders_by_annotation(self, folders, picture):
        (folders / "out").mkdir()
        (folders / "input" / "picture.png").rename(folders / "out" / "picture.png")
        assert load("picture.png [output]")[0].shape[2] == 6

    def test_choices_and_check(self, picture, folders):
        (folders / "input" / "sound.wav").touch()
        node = CORE_NODES["LoadImage"]
        assert node.INPUT_TYPES()["required"]["image"][0] == ["picture.png"]
        assert node.VALIDATE_INPUTS("picture.png") is True
        assert node.VALIDATE_INPUTS(None) is True
        assert node.VALIDATE_INPUTS("none.png").startswith("Invalid image file: none.png")

    def test_file_that_changes_is_noticed(self, picture, folders):
        node = CORE_NODES["LoadImage"]
        before = node.IS_CHANGED("picture.png")
        assert node.IS_CHANGED("picture.png") == before
        Image.fromarray(picture[:2]).save(folders / "input" / "picture.png")
        assert node.IS_CHANGED("picture.png") != before


@pytest.mark.parametrize(("channel", "expected"), [("red", 100 / 255), ("green", 0), ("alpha", 0)])
def test_load_image_mask(picture, channel, expected):
    (mask,) = CORE_NODES["LoadImageMask"]().load_image("picture.png", channel)
    assert tuple(mask.shape) == (1, 4, 6)
    assert mask[0, 0, 2] == pytest.approx(expected)


@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_scaling_changes_the_size_and_not_an_even_colour(method):
    grey = torch.full((2, 6, 10, 3), 0.4)
    (scaled,) = CORE_NODES["ImageScaleBy"]().upscale(grey, method, 2.5)
    assert scaled.shape == (2, 15, 25, 3)
    assert torch.allclose(scaled, torch.tensor(0.4), atol=1e-6 if method != "lanczos" else 1 / 255)


def graph_of_pictures(**save):
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "picture.png"}},
        "2": {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": 3}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "sub/x", **save}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def test_saved_pictures_are_numbered_and_carry_graph_and_workflow(picture, folders):
    report = run_graph(graph_of_pictures(), {"nodes": [], "name": "über"})
    saved = saved_files(report, host())
    names = ["x_00001_.png", "x_00002_.png", "x_00003_.png"]
    assert saved == [folders / "out" / "sub" / name for name in names]
    with Image.open(saved[2]) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
        assert json.loads(image.text["prompt"])["2"]["inputs"] == {"image": ["1", 0], "amount": 3}
        assert json.loads(image.text["workflow"]) == {"nodes": [], "name": "über"}
    assert saved_files(run_graph(graph_of_pictures()), host())[0].name == "x_00004_.png"
    [preview] = report.ui["4"]["images"]
    assert (preview["type"], preview["subfolder"]) == ("temp", "")
    assert (folders / "temp" / preview["filename"]).is_file()


@pytest.mark.parametrize("prefix", ["../x", "/tmp/x"])
def test_nothing_is_saved_outside_of_the_output_folder(picture, folders, prefix):
    with pytest.raises(GraphValidationError, match="leads out of the output folder"):
        run_graph(graph_of_pictures(filename_prefix=prefix))


def test_image_batch_crops_and_scales_the_second(folders):
    first = torch.zeros((2, 4, 8, 3))
    second = torch.zeros((1, 16, 16, 3))
    second[:, 4:12] = 1  # the middle, which is what remains of a square cut to 2:1
    (batch,) = CORE_NODES["ImageBatch"]().batch(first, second)
    assert tuple(batch.shape) == (3, 4, 8, 3)
    assert batch[2].min() == 1
    assert batch[:2].max() == 0


@pytest.fixture
def tone():
    """Half a second of 440 Hz at 16 kHz, two channels."""
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    return Sound(np.stack([wave, -wave]), 16000)


def test_saved_sound_reads_back_the_same(tone, folders):
    node = CORE_NODES["SaveAudio"]()
    saved = node.save(sound_to_comfy(tone), "audio/x", {"1": {}}, {"workflow": {"a": 1}})
    [reference] = saved["ui"]["audio"]
    path = folders / "out" / reference["subfolder"] / reference["filename"]
    assert path.name == "x_00001_.flac"
    read = decode_sound(path)
    assert read.sample_rate == 16000
    np.testing.assert_allclose(read.waveform, tone.waveform, atol=2 / 32768)
    with av.open(str(path)) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    assert json.loads(tags["workflow"]) == {"a": 1}
    (folders / "input" / "x.flac").write_bytes(path.read_bytes())
    (audio,) = CORE_NODES["LoadAudio"]().load("x.flac")
    assert tuple(audio["waveform"].shape) == (1, 2, 8000)


def test_preview_of_sound_goes_to_the_temporary_folder(tone, folders):
    [reference] = CORE_NODES["PreviewAudio"]().save(sound_to_comfy(tone), "x")["ui"]["audio"]
    assert reference["type"] == "temp"
    assert (folders / "temp" / reference["filename"]).is_file()


class TestTrimAudioDuration:
    @pytest.mark.parametrize(
        ("start", "duration", "expected"),
        [
            (0.0, 0.25, slice(0, 4000)),
            (0.1, 0.1, slice(1600, 3200)),
            (-0.1, 60.0, slice(6400, 8000)),
            (-9.0, 0.1, slice(0, 1600)),
            (9.0, 1.0, slice(7999, 8000)),
        ],
    )
    def test_takes_a_part(self, tone, start, duration, expected):
        audio = sound_to_comfy(tone)
        (part,) = CORE_NODES["TrimAudioDuration"]().trim(audio, start, duration)
        assert part["sample_rate"] == 16000
        assert torch.equal(part["waveform"], audio["waveform"][..., expected])

    def test_nothing_is_an_error(self, tone):
        with pytest.raises(ValueError, match=r"nothing remains of 0\.5 s of sound"):
            CORE_NODES["TrimAudioDuration"]().trim(sound_to_comfy(tone), 0.0, 0.0)


def frames(count):
    return [np.full((32, 48, 3), 40 + 20 * index, np.uint8) for index in range(count)]


def test_video_there_and_back(tone, folders):
    images = torch.from_numpy(np.stack(frames(5))).float() / 255
    (video,) = CORE_NODES["CreateVideo"]().create(images, 10.0, sound_to_comfy(tone))
    assert video.get_dimensions() == (48, 32)
    assert video.get_duration() == 0.5
    saved = CORE_NODES["SaveVideo"]().save(video, "video/x", "auto", "auto", {"1": {"class_type": "A"}}, None)
    [reference] = saved["ui"]["images"]
    path = folders / "out" / reference["subfolder"] / reference["filename"]
    assert path.name == "x_00001_.mp4"
    with av.open(str(path)) as container:
        assert json.loads(container.metadata["prompt"]) == {"1": {"class_type": "A"}}
    stream = read_video_frames(path)
    assert (stream.fps, stream.size) == (10, (48, 32))
    read = list(stream)
    assert len(read) == 5
    for frame, expected in zip(read, frames(5), strict=True):
        assert abs(frame.mean() - expected.mean()) < 4
    assert decode_sound(path).sample_count == 8000


def test_loaded_video_comes_apart(tone, folders):
    write_video(folders / "input" / "clip.mp4", frames(6), 12, tone)
    assert CORE_NODES["LoadVideo"].INPUT_TYPES()["required"]["file"][0] == ["clip.mp4"]
    (video,) = CORE_NODES["LoadVideo"]().load("clip.mp4")
    assert (video.get_dimensions(), video.frame_count()) == ((48, 32), 6)
    images, audio, fps = CORE_NODES["GetVideoComponents"]().take_apart(video)
    assert tuple(images.shape) == (6, 32, 48, 3)
    assert (fps, audio["sample_rate"]) == (12.0, 16000)
    assert images[5].mean() * 255 == pytest.approx(140, abs=4)


def test_silent_video_has_no_audio(folders):
    write_video(folders / "input" / "clip.mp4", frames(2), 12)
    (video,) = CORE_NODES["LoadVideo"]().load("clip.mp4")
    assert CORE_NODES["GetVideoComponents"]().take_apart(video)[1] is None


def test_file_that_is_not_a_video(folders):
    (folders / "input" / "clip.mp4").write_text("not a video")
    (video,) = CORE_NODES["LoadVideo"]().load("clip.mp4")
    with pytest.raises((ValueError, OSError), match=r"clip\.mp4"):
        CORE_NODES["GetVideoComponents"]().take_apart(video)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PrimitiveInt", 3),
        ("PrimitiveFloat", 0.5),
        ("PrimitiveString", "a"),
        ("PrimitiveStringMultiline", "a\nb"),
        ("PrimitiveBoolean", True),
    ],
)
def test_primitives_give_their_value(name, value):
    assert CORE_NODES[name]().give(value) == (value,)
    assert list(CORE_NODES[name].INPUT_TYPES()["required"]) == ["value"]
