"""Video files in and out: exact counts, constant rates, whole files or none."""

import itertools
import json
import os
import weakref
from fractions import Fraction

import av
import numpy as np
import pytest
from talking_portrait.core_models.audio.decode import Sound, decode_sound
from talking_portrait.core_models.audio.frame_clock import exact_rate, sample_count
from talking_portrait.core_models.audio.resample import pad_to_frames
from talking_portrait.core_models.media_container import read_metadata
from talking_portrait.core_models.video_file import read_video_frames, write_video

GREY_STEP = 5


class TracedFrame(np.ndarray):
    """An array that can be put into a WeakSet: hashed by identity."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self is other


def grey_frames(count, size=(48, 64)):
    """Frames whose grey level is GREY_STEP times their number (modulo 250), with a red corner."""
    for index in range(count):
        frame = np.full((*size, 3), index * GREY_STEP % 250, np.uint8)
        frame[:8, :8] = (255, 0, 0)
        yield frame


def numbers(frames):
    """Which frame of `grey_frames` each is (modulo 50), by its middle."""
    return [
        round(float(frame[frame.shape[0] // 2, frame.shape[1] // 2].mean()) / GREY_STEP) for frame in frames
    ]


def noise(seconds, sample_rate, channels=1):
    rng = np.random.default_rng(7)
    samples = round(seconds * sample_rate)
    slow = rng.standard_normal((channels, samples // 8 + 2)).repeat(8, axis=1)[:, :samples]
    return Sound(slow * 0.1, sample_rate)


def write_at_times(path, times, time_base=Fraction(1, 1000), rotation=None, size=(48, 64)):
    """Write `grey_frames` with the presentation times given in `time_base`: a file of variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = time_base
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip(f"PyAV {av.__version__} cannot write rotated files")
            stream.set_display_rotation(rotation)
        for time, array in zip(times, grey_frames(len(times), size), strict=True):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


class TestAgreement:
    @pytest.mark.parametrize("fps", [12.5, 23, 23.976, 24, 25, 29.97, 30, 50, 60])
    @pytest.mark.parametrize("sample_rate", [16000, 24000, 44100, 48000])
    def test_frames_rate_and_sound_agree_exactly(self, tmp_path, fps, sample_rate):
        path = tmp_path / "out.mp4"
        sound, frames = pad_to_frames(noise(0.53, sample_rate), fps)
        assert write_video(path, grey_frames(frames), fps, sound) == frames
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.frames, video.average_rate, video.start_time) == (frames, exact_rate(fps), 0)
            assert (audio.rate, audio.start_time) == (sample_rate, 0)
            assert audio.duration * audio.time_base * sample_rate == sound.sample_count
        assert numbers(read_video_frames(path)) == [index % 50 for index in range(frames)]
        decoded = decode_sound(path)
        assert decoded.sample_count == sound.sample_count == sample_count(frames, fps, sample_rate)
        # No shift by the codec's priming: the sound itself is where it was.
        assert np.corrcoef(decoded.waveform[0], sound.waveform[0])[0, 1] > 0.9

    def test_one_frame_and_ten_milliseconds(self, tmp_path):
        sound, frames = pad_to_frames(noise(0.01, 16000), 25)
        write_video(tmp_path / "short.mp4", grey_frames(frames), 25, sound)
        assert len(list(read_video_frames(tmp_path / "short.mp4"))) == 1
        assert decode_sound(tmp_path / "short.mp4").sample_count == 640

    def test_the_picture_decides_the_length(self, tmp_path, caplog):
        write_video(tmp_path / "long.mp4", grey_frames(10), 25, noise(3, 16000))
        assert decode_sound(tmp_path / "long.mp4").sample_count == 6400
        assert "2.60 s longer than the picture" in caplog.text
        write_video(tmp_path / "short.mp4", grey_frames(50), 25, noise(1, 16000))
        tail = decode_sound(tmp_path / "short.mp4").waveform[0, 18000:]
        assert len(tail) == 14000
        assert np.abs(tail).max() < 1e-3

    @pytest.mark.parametrize(
        ("channels", "rate", "written_channels", "written_rate"),
        [
            (1, 8000, 1, 8000),
            (8, 96000, 8, 96000),
            (7, 48000, 1, 48000),
            (2, 37800, 2, 44100),
            (1, 192000, 1, 96000),
        ],
    )
    def test_any_sound_fits(self, tmp_path, channels, rate, written_channels, written_rate):
        write_video(tmp_path / "out.mp4", grey_frames(5), 25, noise(0.2, rate, channels))
        decoded = decode_sound(tmp_path / "out.mp4")
        assert (decoded.channel_count, decoded.sample_rate) == (written_channels, written_rate)
        assert decoded.sample_count == written_rate // 5


class TestWriting:
    @pytest.mark.parametrize("size", [(1, 1), (31, 47), (48, 33), (64, 64)])
    def test_odd_sizes_grow_by_a_repeated_edge(self, tmp_path, size):
        height, width = size
        frame = np.zeros((height, width, 3), np.uint8)
        frame[-1], frame[:, -1] = 200, 200
        write_video(tmp_path / "odd.mp4", [frame] * 2, 25, crf=4)
        read = next(iter(read_video_frames(tmp_path / "odd.mp4")))
        assert read.shape == (height + height % 2, width + width % 2, 3)
        assert abs(int(read[-1, -1, 1]) - 200) < 8

    @pytest.mark.parametrize(
        "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (198, 150, 121), (255, 255, 255)]
    )
    def test_colours_survive(self, tmp_path, colour):
        write_video(tmp_path / "flat.mp4", [np.full((32, 32, 3), colour, np.uint8)] * 2, 25)
        read = next(iter(read_video_frames(tmp_path / "flat.mp4")))
        assert np.abs(read.astype(int) - colour).max() <= 3
        with av.open(str(tmp_path / "flat.mp4")) as container:
            frame = next(container.decode(video=0))
        assert frame.format.name == "yuv420p"
        assert int(frame.colorspace) == 1  # BT.709, said in the file

    def test_metadata_comes_back(self, tmp_path):
        workflow = json.dumps({"nodes": [{"title": 'é ü 肖像 " \\'}] * 500})
        write_video(
            tmp_path / "tagged.mp4", grey_frames(2), 25, metadata={"workflow": workflow, "prompt": "{}"}
        )
        tags = read_metadata(tmp_path / "tagged.mp4")
        assert tags["workflow"] == workflow
        assert tags["prompt"] == "{}"

    def test_crf_trades_size_for_quality(self, tmp_path):
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)] * 5
        write_video(tmp_path / "fine.mp4", frames, 25, crf=10)
        write_video(tmp_path / "coarse.mp4", frames, 25, crf=40)
        assert (tmp_path / "fine.mp4").stat().st_size > 2 * (tmp_path / "coarse.mp4").stat().st_size

    def test_progress_counts_every_frame(self, tmp_path):
        calls = []
        write_video(
            tmp_path / "a.mp4", grey_frames(4), 25, progress=lambda *call: calls.append(call), frame_total=4
        )
        assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_an_existing_file_is_replaced_only_by_a_whole_one(self, tmp_path):
        path = tmp_path / "out.mp4"
        write_video(path, grey_frames(3), 25)
        before = path.read_bytes()
        with pytest.raises(ValueError, match="frame 1"):
            write_video(path, [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], 25)
        assert path.read_bytes() == before
        write_video(path, grey_frames(5), 25)
        assert len(list(read_video_frames(path))) == 5
        assert os.listdir(tmp_path) == ["out.mp4"]


class TestNothingIsLeft:
    class Cancelled(BaseException):
        pass

    def test_after_a_cancel_in_the_middle(self, tmp_path):
        def cancel(done, total):
            if done == 10:
                raise self.Cancelled

        with pytest.raises(self.Cancelled):
            write_video(tmp_path / "out.mp4", grey_frames(100), 25, noise(4, 16000), progress=cancel)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
    def test_after_the_frames_fail(self, tmp_path, interruption):
        def frames():
            yield from grey_frames(3)
            raise interruption

        with pytest.raises(interruption):
            write_video(tmp_path / "out.mp4", frames(), 25, noise(1, 16000))
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            ([], "no frames"),
            ([np.zeros((8, 8), np.uint8)], r"frame 0 is uint8 of shape \(8, 8\)"),
            ([np.zeros((8, 8, 3), np.float32)], "frame 0 is float32"),
            ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], "frame 1 is 10x8, .* 8x8"),
        ],
    )
    def test_after_bad_frames(self, tmp_path, frames, message):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / "out.mp4", frames, 25)
        assert os.listdir(tmp_path) == []


class TestRefusedBeforeAnyWork:
    @staticmethod
    def never():
        raise AssertionError("a frame was asked for")
        yield

    def test_a_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"the folder .*missing does not exist"):
            write_video(tmp_path / "missing" / "out.mp4", self.never(), 25)

    def test_an_unwritable_folder(self, tmp_path):
        """Below a regular file nobody can write, not even root."""
        (tmp_path / "file").write_text("x")
        with pytest.raises(OSError, match=r"cannot write into the folder .*file"):
            write_video(tmp_path / "file" / "out.mp4", self.never(), 25)

    def test_another_format(self, tmp_path):
        with pytest.raises(ValueError, match=r"'out\.avi': end it in \.mp4"):
            write_video(tmp_path / "out.avi", self.never(), 25)

    def test_a_folder_as_target(self, tmp_path):
        (tmp_path / "folder.mp4").mkdir()
        with pytest.raises(IsADirectoryError, match="is a folder"):
            write_video(tmp_path / "folder.mp4", self.never(), 25)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"fps": 0}, "fps is 0"),
            ({"crf": 60}, "crf is 60"),
            ({"metadata": {"prompt": {}}}, "'prompt' is a dict"),
        ],
    )
    def test_bad_settings(self, tmp_path, settings, message):
        with pytest.raises(ValueError, match=message):
            write_video(tmp_path / "out.mp4", self.never(), **{"fps": 25, **settings})


class TestReading:
    @pytest.mark.parametrize("extension", ["mp4", "mkv"])
    def test_variable_rate_is_resampled_to_the_nearest_presentation_time(self, tmp_path, extension):
        rng = np.random.default_rng(3)
        times = np.concatenate([[0], np.cumsum(rng.choice([20, 33, 40, 66, 100], 45))])
        path = write_at_times(tmp_path / f"variable.{extension}", times.tolist())
        video = read_video_frames(path, 25)
        frames = list(video)
        assert video.fps == 25
        assert len(frames) == pytest.approx((times[-1] + 33) / 40, abs=1.6)
        for index, number in enumerate(numbers(frames)):
            distance = np.abs(times - 40 * index)
            assert distance[number] <= distance.min() + 1

    def test_a_variable_rate_file_gets_a_usual_rate_and_keeps_its_duration(self, tmp_path):
        times = np.cumsum([0] + [33, 34, 33, 50] * 12)
        path = write_at_times(tmp_path / "phone.mp4", times.tolist())
        video = read_video_frames(path)
        frames = list(video)
        assert video.fps == 30  # the average is 26.7
        assert len(frames) / video.fps == pytest.approx(times[-1] / 1000, abs=0.08)

    def test_another_rate_keeps_duration_and_order(self, tmp_path):
        write_video(tmp_path / "out.mp4", grey_frames(48), 24)
        shown = numbers(read_video_frames(tmp_path / "out.mp4", 12))
        assert shown == list(range(0, 48, 2))
        doubled = numbers(read_video_frames(tmp_path / "out.mp4", 48))
        assert len(doubled) == 96
        assert sorted(doubled) == doubled

    @pytest.mark.parametrize(
        ("rotation", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))]
    )
    def test_rotation_by_metadata_is_applied(self, tmp_path, rotation, corner):
        """Positive angles turn the picture anticlockwise."""
        path = write_at_times(tmp_path / "turned.mp4", [0, 40, 80], rotation=rotation)
        video = read_video_frames(path)
        frame = next(iter(video))
        assert video.size == ((64, 48) if rotation in (0, 180) else (48, 64))
        assert frame.shape == (video.size[1], video.size[0], 3)
        row, column = (3 if place == 0 else -4 for place in corner)
        assert frame[row, column, 0] > 200 > 60 > frame[row, column, 2]

    def test_iterating_twice_gives_the_same(self, tmp_path):
        write_video(tmp_path / "out.mp4", grey_frames(6), 25)
        video = read_video_frames(tmp_path / "out.mp4")
        assert video.frame_count == 6
        assert numbers(video) == numbers(video) == list(range(6))

    def test_not_a_video(self, tmp_path):
        notes = tmp_path / "notes.mp4"
        notes.write_text("not a video" * 200)
        with pytest.raises(ValueError, match="not a sound or video file"):
            read_video_frames(notes)
        picture = tmp_path / "picture.png"
        with av.open(str(picture), "w", format="image2") as container:
            stream = container.add_stream("png", rate=1)
            stream.width, stream.height, stream.pix_fmt = 8, 8, "rgb24"
            frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(ValueError, match="is a picture"):
            read_video_frames(picture)

    def test_a_sound_file(self, shared_data):
        with pytest.raises(ValueError, match="is not a video: its streams are audio"):
            read_video_frames(shared_data / "speech" / "english_man_11s.flac")

    @pytest.mark.parametrize("share", [0.4, 0.9])
    def test_a_cut_off_video_is_an_error_and_not_a_short_clip(self, tmp_path, share):
        rng = np.random.default_rng(0)
        frames = [rng.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(60)]
        write_video(tmp_path / "whole.mp4", frames, 25)
        content = (tmp_path / "whole.mp4").read_bytes()
        (tmp_path / "cut.mp4").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ValueError, match="cut off"):
            list(read_video_frames(tmp_path / "cut.mp4"))

    def test_a_file_without_its_index(self, tmp_path):
        path = write_at_times(tmp_path / "whole.mp4", list(range(0, 2000, 40)))  # its index is at the end
        (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:-600])
        with pytest.raises(ValueError, match="cut off"):
            read_video_frames(tmp_path / "cut.mp4")

    def test_paths_that_cannot_be_read(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_video_frames(tmp_path / "missing.mp4")
        with pytest.raises(IsADirectoryError):
            read_video_frames(tmp_path)

    def test_real_driving_videos(self, shared_data):
        expected = {"man_smile_512_25fps.mp4": (25, 78), "man_talk_384_30fps_audio.mp4": (30, 105)}
        for name, (fps, count) in expected.items():
            video = read_video_frames(shared_data / "driving" / name)
            assert (video.fps, video.frame_count, len(list(video))) == (fps, count, count)


class TestMemory:
    """Long clips must not collect: at most a few frames may be alive at any time."""

    def test_writing_lets_frames_go(self, tmp_path):
        alive = weakref.WeakSet()
        most = []

        def frames():
            for _ in range(100):
                frame = TracedFrame((32, 32, 3), np.uint8)
                frame[:] = 0
                alive.add(frame)
                yield frame

        write_video(
            tmp_path / "out.mp4", frames(), 25, noise(4, 16000), progress=lambda *_: most.append(len(alive))
        )
        assert len(most) == 100
        assert max(most) <= 3

    def test_reading_stops_when_the_reader_does(self, tmp_path):
        write_video(tmp_path / "out.mp4", grey_frames(200), 25)
        reader = iter(read_video_frames(tmp_path / "out.mp4"))
        assert numbers([next(reader)]) == [0]
        reader.close()
        os.replace(tmp_path / "out.mp4", tmp_path / "moved.mp4")
        assert numbers(itertools.islice(read_video_frames(tmp_path / "moved.mp4"), 3)) == [0, 1, 2]
