"""`talking-portrait live`: sources that misbehave, sinks that leave nothing half written, and the command."""

import io
import json
import signal
import struct
import subprocess
import sys
import threading
import time

import av
import numpy as np
import pytest
import soxr
from talking_portrait.core_models.audio.decode import decode_sound
from talking_portrait.core_models.rendering.mesh import MeshRenderer
from talking_portrait.core_models.video_file import read_video_frames
from talking_portrait.headless import live_command, sound_sources
from talking_portrait.headless.command_line import main
from talking_portrait.headless.frame_sinks import RawFrames, VideoFile, sound_rate_for_file
from talking_portrait.headless.live_command import LiveRun, parsed_emotion
from talking_portrait.headless.sound_sources import (
    ReadAhead,
    Resampler,
    SoundPiece,
    file_pieces,
    microphone_device,
    microphone_pieces,
    paced,
    pipe_pieces,
    with_channels,
)

from .live_parts import ListSink, StillStream, tone, wav_bytes

DEMO = "workflows/assets/demo_speech.wav"


class TestSources:
    def test_a_file_in_pieces_is_the_whole_file(self, pytestconfig):
        path = pytestconfig.rootpath / DEMO
        pieces = list(file_pieces(path))
        assert len(pieces) > 5
        whole = decode_sound(path)
        assert np.array_equal(np.concatenate([piece.waveform for piece in pieces], axis=1), whole.waveform)
        assert {piece.sample_rate for piece in pieces} == {whole.sample_rate}

    @pytest.mark.parametrize("channels", [1, 2])
    def test_wav_and_raw_samples_on_a_pipe(self, channels):
        sound = np.repeat(tone(0.35, 22050), channels, axis=0)
        data = wav_bytes(sound, 22050)
        for given, arguments in ((data, ()), (data[44:], (22050, channels))):
            pieces = list(pipe_pieces(io.BytesIO(given).read, *arguments))
            made = np.concatenate([piece.waveform for piece in pieces], axis=1)
            assert made.shape == sound.shape
            assert np.abs(made - sound).max() < 1e-3
            assert pieces[0].sample_rate == 22050

    def test_a_pipe_that_trickles_and_ends_within_a_sample(self, caplog):
        data = (tone(0.1, 8000).T * 32767).astype("<i2").tobytes() + b"\x01"
        stream = io.BytesIO(data)
        made = list(pipe_pieces(lambda count: stream.read(min(count, 7)), 8000))
        assert sum(piece.waveform.shape[1] for piece in made) == 800
        assert "middle of a sample" in caplog.text

    def test_bad_pipes(self):
        with pytest.raises(ValueError, match="--rate"):
            list(pipe_pieces(io.BytesIO(b"x" * 100).read))
        data = bytearray(wav_bytes(tone(0.1, 8000), 8000))
        data[34] = 24
        with pytest.raises(ValueError, match="24 bits"):
            list(pipe_pieces(io.BytesIO(bytes(data)).read))
        with pytest.raises(ValueError, match="ends before"):
            list(pipe_pieces(io.BytesIO(bytes(data[:20])).read))

    def test_a_pipe_without_anything(self):
        for arguments in ((), (16000,)):
            with pytest.raises(ValueError, match="ended before any sound came"):
                list(pipe_pieces(io.BytesIO().read, *arguments))
        for count in (4, 10, 12):
            with pytest.raises(ValueError, match="WAV on the pipe ends before"):
                list(pipe_pieces(io.BytesIO(wav_bytes(tone(0.1, 8000), 8000)[:count]).read))

    def test_a_wav_says_what_it_is(self):
        with pytest.raises(ValueError, match="leave out --rate and --channels"):
            list(pipe_pieces(io.BytesIO(wav_bytes(tone(0.1, 8000), 8000)).read, 8000))

    @pytest.mark.parametrize("length", [None, 0, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF])
    def test_what_follows_the_samples_of_a_wav_is_no_sound(self, length):
        """Unless the header was written before the length was known: then all that comes is sound."""
        data = bytearray(wav_bytes(tone(0.25, 8000), 8000))
        if length is not None:
            data[40:44] = struct.pack("<I", length)
        stream = io.BytesIO(bytes(data) + b"LIST" + struct.pack("<I", 392) + bytes(392))
        made = list(pipe_pieces(stream.read))
        samples = sum(piece.waveform.shape[1] for piece in made)
        assert samples == (2000 if length is None else 2200)

    def test_microphones_by_system(self):
        assert microphone_device("pulse", None) == "default"
        assert microphone_device("alsa", "hw:1") == "hw:1"
        assert microphone_device("avfoundation", None) == ":0"
        assert microphone_device("dshow", "Desk") == "audio=Desk"

    def test_windows_needs_the_name_of_a_microphone(self, monkeypatch):
        monkeypatch.setattr(sound_sources.sys, "platform", "win32")
        monkeypatch.setattr(sound_sources.av, "formats_available", {"dshow"})
        monkeypatch.setattr(sound_sources.av, "open", None)
        with pytest.raises(ValueError, match="--microphone needs a NAME on Windows"):
            next(microphone_pieces())

    def test_no_microphone(self, monkeypatch):
        monkeypatch.setattr(sound_sources.sys, "platform", "linux")
        with pytest.raises(OSError, match="--speech -"):
            next(microphone_pieces("no-such-device"))
        monkeypatch.setattr(sound_sources, "MICROPHONE_FORMATS", {"linux": ("nothing",)})
        with pytest.raises(OSError, match="no sound input"):
            next(microphone_pieces())

    def test_paced_sound_takes_its_time(self):
        start = time.monotonic()
        assert len(list(paced([SoundPiece(tone(0.05, 8000), 8000)] * 4))) == 4
        assert time.monotonic() - start >= 0.2

    @pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
    def test_resampling_in_pieces_loses_nothing(self, rate):
        sound = tone(1.003, rate)
        resampler = Resampler(16000, 1)
        pieces = [
            resampler.push(SoundPiece(sound[:, start : start + 700], rate))
            for start in range(0, sound.shape[1], 700)
        ]
        made = np.concatenate([*pieces, resampler.finish()], axis=1)[0]
        whole = soxr.resample(sound[0], rate, 16000, quality="VHQ")
        assert abs(len(made) - round(sound.shape[1] * 16000 / rate)) <= 1
        count = min(len(made), len(whole))
        assert np.abs(made[:count] - whole[:count]).max() < 1e-4

    def test_a_change_of_rate_goes_on_where_it_was(self):
        resampler = Resampler(16000, 1)
        pieces = [SoundPiece(tone(0.5, rate), rate) for rate in (44100, 16000, 8000)]
        made = np.concatenate([*(resampler.push(piece) for piece in pieces), resampler.finish()], axis=1)
        assert abs(made.shape[1] - 24000) <= 2
        expected = np.tile(tone(0.5, 16000), 3)[:, : made.shape[1]]
        assert np.sqrt(np.mean((made[:, : expected.shape[1]] - expected) ** 2)) < 0.02

    def test_channels(self):
        assert np.allclose(with_channels(np.array([[1.0], [0.0]]), 1), 0.5)
        assert with_channels(np.ones((1, 3)), 2).shape == (2, 3)

    def test_a_stalled_source_ends_and_says_so(self):
        never = threading.Event()

        def pieces():
            yield SoundPiece(tone(0.1, 8000), 8000)
            never.wait(20)

        source = ReadAhead(pieces(), 0.2)
        assert len(list(source)) == 1
        assert source.stalled
        never.set()
        with pytest.raises(ValueError, match="stalled"):
            ReadAhead([], 0)

    def test_closing_lets_a_source_go(self):
        ended = threading.Event()

        def pieces():
            try:
                while True:
                    yield SoundPiece(tone(0.1, 8000), 8000)
            finally:
                ended.set()

        with ReadAhead(pieces(), 5) as source:
            assert next(iter(source))[0].sample_rate == 8000
        assert ended.wait(5)
        source._thread.join(5)
        assert not source._thread.is_alive()
        assert list(source) == []

    def test_samples_that_are_no_numbers(self):
        broken = tone(0.1, 8000)
        broken[0, 3] = np.nan
        source = ReadAhead([SoundPiece(tone(0.1, 8000), 8000), SoundPiece(broken, 8000)], 5)
        pieces = iter(source)
        next(pieces)
        with pytest.raises(ValueError, match="1 NaN or infinite samples among 800"):
            next(pieces)

    def test_errors_of_a_source_come_through(self):
        with pytest.raises(FileNotFoundError):
            list(ReadAhead(file_pieces(sound_sources.Path("nothing.wav")), 1))


class TestSinks:
    frame = np.zeros((32, 48, 3), np.uint8)

    def test_a_video_has_its_frames_and_sound_of_their_length(self, tmp_path):
        target = tmp_path / "x.mp4"
        sink = VideoFile(target, 25.0, 16000, 1)
        sound = tone(2.2, 16000)
        for index in range(50):
            sink.sound(sound[:, index * 700 : (index + 1) * 700])
            assert not target.exists()
            sink.frame(self.frame)
        sink.close()
        assert read_video_frames(target).frame_count == 50
        made = decode_sound(target)
        assert made.sample_count == 32000
        assert np.corrcoef(made.waveform[0], sound[0, :32000])[0, 1] > 0.95
        assert list(tmp_path.iterdir()) == [target]

    @pytest.mark.parametrize("end", ["abandon", "close"])
    def test_nothing_is_left_of_what_has_no_frames_or_is_abandoned(self, tmp_path, end):
        sink = VideoFile(tmp_path / "x.mp4", 25.0, 16000, 1)
        if end == "abandon":
            sink.frame(self.frame)
        getattr(sink, end)()
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("part", ["av.open", "VideoEncoder"])
    def test_nothing_is_left_of_a_video_that_could_not_begin(self, tmp_path, monkeypatch, part):
        def fail(*_arguments, **_options):
            raise RuntimeError("no encoder")

        monkeypatch.setattr(f"talking_portrait.headless.frame_sinks.{part}", fail)
        with pytest.raises(RuntimeError, match="no encoder"):
            VideoFile(tmp_path / "x.mp4", 25.0, 16000, 1)
        assert list(tmp_path.iterdir()) == []

    def test_raw_frames(self):
        frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
        for name, expected in (("rgb24", frame), ("bgr24", frame[..., ::-1])):
            buffer = io.BytesIO()
            RawFrames(buffer, name).frame(frame)
            assert buffer.getvalue() == expected.tobytes()
        with pytest.raises(ValueError, match="rgb24"):
            RawFrames(io.BytesIO(), "yuv")

    def test_rates_aac_knows(self):
        assert [sound_rate_for_file(rate) for rate in (16000, 16001, 200000)] == [16000, 22050, 96000]


class TestRun:
    pieces = (SoundPiece(tone(0.25, 16000), 16000),) * 2

    def test_frames_are_those_of_the_whole_motion(self, astronaut_portrait):
        renderer, sink = MeshRenderer(astronaut_portrait), ListSink()
        report = LiveRun(StillStream(), renderer).through(ReadAhead(self.pieces, 5), lambda piece: sink)
        whole = StillStream()._frames(13)
        assert report.frames == len(sink.frames) == 13
        assert all(map(np.array_equal, sink.frames, renderer.frames(whole)))
        assert (report.ended, sink.ended) == ("end", "closed")
        assert report.sound_for_first_frame == 0.25


class TestCommand:
    def test_a_file_to_a_video(self, tmp_path, capsys):
        (tmp_path / "s.wav").write_bytes(wav_bytes(tone(1.01, 22050), 22050))
        target = tmp_path / "x.mp4"
        arguments = [
            "live",
            "--speech",
            str(tmp_path / "s.wav"),
            "--out",
            str(target),
            "--size",
            "128",
            "--json",
        ]
        assert main(arguments) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["frames"], report["ended"]) == (26, "end")
        assert (report["width"], report["height"]) == (128, 128)
        with av.open(str(target)) as container:
            assert container.streams.video[0].frames == 26
            assert container.streams.audio[0].rate == 22050

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--speech", "nothing.wav"], "there is no file nothing.wav"),
            (["--out", "x.avi"], "videos are written as mp4"),
            (["--emotion", "bored"], "unknown emotion 'bored'"),
            (["--emotion", "happy:x"], "is not a number"),
            (["--emotion", "happy:3"], "expected 0 to 2"),
            (["--model", "other"], "there is no live model 'other'"),
            (["--look-ahead", "1"], "look_ahead is 1 frames"),
            (["--stall-seconds", "0"], "stalled"),
            (["--rate", "16000"], "--rate is of raw samples on standard input: it needs --speech -"),
            (["--speech", "x.wav", "--channels", "2"], "--channels is of raw samples on standard input"),
            (["--microphone", "--rate", "16000"], "it needs --speech -"),
            (["--speech", "-", "--rate", "0"], "--rate is 0, expected at least 1"),
            (["--speech", "-", "--rate", "8000", "--channels", "0"], "--channels is 0, expected at least 1"),
            (["--speech", "-", "--channels", "2"], "say their --rate too"),
            (["--speech", "-", "--paced"], "--paced is for sound files"),
            (["--microphone", "--paced"], "--paced is for sound files"),
            (["--format", "bgr24"], "--format bgr24 is of raw frames: it needs --out -"),
        ],
    )
    def test_bad_arguments(self, arguments, message, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["live", *arguments]) == 1
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_emotions(self):
        assert parsed_emotion("sad:0.5").strengths[0] == 0.5
        assert parsed_emotion("happy").weights[0, 1] == 1

    def test_nothing_but_frames_on_standard_output(self, tmp_path):
        data = (tone(0.5, 16000).T * 32767).astype("<i2").tobytes()
        command = [sys.executable, "-m", "talking_portrait", "live", "--speech", "-", "--rate", "16000"]
        done = subprocess.run(
            [*command, "--out", "-", "--size", "64"],
            input=data,
            capture_output=True,
            timeout=60,
            cwd=tmp_path,
        )
        assert done.returncode == 0
        assert len(done.stdout) == 13 * 64 * 64 * 3
        lines = done.stderr.splitlines()
        assert lines[0] == b"64x64 rgb24 at 25 fps"
        assert b"13 frames of 64x64" in done.stderr

    @pytest.mark.skipif(sys.platform == "win32", reason="signals")
    def test_ctrl_c_keeps_what_there_is(self, tmp_path, pytestconfig):
        target = tmp_path / "x.mp4"
        command = [
            sys.executable,
            "-m",
            "talking_portrait",
            "live",
            "--paced",
            "--size",
            "64",
            "--out",
            str(target),
        ]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path)
        running.stderr.readline()
        time.sleep(0.7)
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == live_command.EXIT_INTERRUPTED
        assert 1 <= read_video_frames(target).frame_count < 170
        assert list(tmp_path.iterdir()) == [target]
