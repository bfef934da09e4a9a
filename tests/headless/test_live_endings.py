"""`talking-portrait live`: however it ends, what was made is kept and the reason is said."""

import io
import json
import struct
import sys
import threading

import numpy as np
import pytest
from talking_portrait.core_models.rendering.mesh import MeshRenderer
from talking_portrait.core_models.video_file import read_video_frames
from talking_portrait.headless import sound_sources
from talking_portrait.headless.command_line import main
from talking_portrait.headless.frame_sinks import RawFrames
from talking_portrait.headless.live_run import LiveRun, Teller
from talking_portrait.headless.sound_sources import ReadAhead, SoundPiece
from talking_portrait.runtime import motion_streams

from .live_parts import ListSink, StillStream, tone, wav_bytes

PIECES = (SoundPiece(tone(0.25, 16000), 16000),) * 2


class GoneReader(io.StringIO):
    """A text stream that nobody reads, with frames under it that somebody takes `lasting` of."""

    def __init__(self, lasting=0):
        super().__init__()
        self.buffer, self.tries = self, 0
        self._lasting = lasting

    def write(self, _data):
        self.tries += 1
        if self.tries > self._lasting:
            raise BrokenPipeError

    def flush(self):
        pass


@pytest.fixture
def renderer(astronaut_portrait):
    return MeshRenderer(astronaut_portrait)


@pytest.fixture
def live(monkeypatch, tmp_path):
    """Run the command with a stream that needs no model, on raw samples or a WAV from a pipe."""
    monkeypatch.setattr(motion_streams, "motion_stream", lambda *_: StillStream())
    monkeypatch.chdir(tmp_path)

    def run(data, *arguments):
        monkeypatch.setattr(sound_sources, "standard_input", io.BytesIO(data).read)
        return main(["live", "--speech", "-", "--size", "64", *arguments])

    return run


def float_wav(waveform, rate):
    """A WAV of 32 bit floats, (n,)."""
    data = waveform.astype("<f4").tobytes()
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    return b"RIFF\0\0\0\0WAVE" + layout + struct.pack("<4sI", b"data", len(data)) + data


class TestReaders:
    def test_a_reader_of_frames_that_goes_away_ends_the_run(self, renderer):
        report = LiveRun(StillStream(), renderer).through(
            ReadAhead(PIECES, 5), lambda _: RawFrames(GoneReader(lasting=3))
        )
        assert (report.frames, report.ended) == (3, "reader gone")

    def test_a_broken_pipe_elsewhere_is_an_error_and_the_sink_is_abandoned(self, renderer):
        class Unwritable(ListSink):
            def frame(self, frame):
                raise BrokenPipeError

        sink = Unwritable()
        with pytest.raises(BrokenPipeError):
            LiveRun(StillStream(), renderer).through(ReadAhead(PIECES, 5), lambda _: sink)
        assert sink.ended == "abandoned"

    def test_a_progress_line_that_nobody_reads_ends_nothing(self, renderer, monkeypatch):
        monkeypatch.setattr(sys, "stderr", GoneReader())
        sink = ListSink()
        report = LiveRun(StillStream(), renderer, tell=Teller()).through(ReadAhead(PIECES, 5), lambda _: sink)
        assert sys.stderr.tries
        assert (report.frames, report.ended, sink.ended) == (13, "end", "closed")

    def test_a_recording_whose_messages_nobody_reads_is_kept(self, live, tmp_path, monkeypatch):
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, GoneReader())
        assert live(wav_bytes(tone(0.5, 16000), 16000), "--out", "x.mp4") == 0
        assert read_video_frames(tmp_path / "x.mp4").frame_count == 13

    def test_a_reader_that_has_seen_enough_is_no_error(self, live, monkeypatch, capsys):
        monkeypatch.setattr(sys, "stdout", GoneReader(lasting=2))
        assert live(wav_bytes(tone(0.5, 16000), 16000), "--out", "-", "--json") == 0
        first, *_, last = capsys.readouterr().err.splitlines()
        assert first == "64x64 rgb24 at 25 fps"
        report = json.loads(last)
        assert (report["frames"], report["ended"]) == (2, "reader gone")
        assert (report["width"], report["height"]) == (64, 64)
        assert report["real_time_factor"] > report["compute_to_first_frame"] > 0  # work cut short counts


class TestBrokenSources:
    def broken_after(self, *pieces):
        yield from pieces
        raise OSError("the cable is out")

    def test_what_came_before_is_finished(self, renderer):
        sink, run = ListSink(), LiveRun(StillStream(), renderer)
        report = run.through(ReadAhead(self.broken_after(*PIECES), 5), lambda _: sink)
        assert (report.frames, report.ended, sink.ended) == (13, "broken source", "closed")
        assert str(run.source_error) == "the cable is out"

    def test_one_that_never_worked_is_an_error(self, renderer):
        with pytest.raises(OSError, match="the cable is out"):
            LiveRun(StillStream(), renderer).through(
                ReadAhead(self.broken_after(), 5), lambda _: pytest.fail("there is nothing to write")
            )

    def test_a_model_that_fails_leaves_nothing(self, renderer):
        class Failing(StillStream):
            def push(self, waveform):
                raise ValueError("broken")

        sink = ListSink()
        with pytest.raises(ValueError, match="broken"):
            LiveRun(Failing(), renderer).through(ReadAhead(PIECES, 5), lambda _: sink)
        assert sink.ended == "abandoned"

    def test_a_recording_up_to_a_hole_in_the_sound_is_kept(self, live, tmp_path, capsys):
        sound = tone(1.0, 16000)[0]
        sound[12000] = np.nan
        assert live(float_wav(sound, 16000), "--out", "x.mp4", "--json") == 1
        told = capsys.readouterr()
        report = json.loads(told.out)
        assert report["ended"] == "broken source"
        assert (
            read_video_frames(tmp_path / "x.mp4").frame_count == report["frames"] == 18
        )  # 7 pieces of 0.1 s
        assert told.err.splitlines()[-1].startswith("error: the sound has 1 NaN or infinite samples")


class TestNoSound:
    def test_an_empty_source(self, renderer):
        with pytest.raises(ValueError, match="ended before any sound"):
            LiveRun(StillStream(), renderer).through(ReadAhead([], 5), lambda _: ListSink())

    def test_a_stall_before_the_first_sound(self, renderer):
        never = threading.Event()

        def pieces():
            never.wait(20)
            yield from ()

        with pytest.raises(ValueError, match=r"no sound came for 0\.2 s.*--stall-seconds"):
            LiveRun(StillStream(), renderer).through(ReadAhead(pieces(), 0.2), lambda _: ListSink())
        never.set()

    def test_an_empty_pipe(self, live, tmp_path, capsys):
        assert live(b"") == 1
        assert "the pipe ended before any sound came" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


class TestWhatIsKept:
    @pytest.mark.parametrize("teller", [None, Teller()])
    def test_times_of_arrival_do_not_pile_up(self, renderer, teller):
        run = LiveRun(StillStream(), renderer, tell=teller)
        run.through(ReadAhead([SoundPiece(tone(0.04, 16000), 16000)] * 20, 5), lambda _: ListSink())
        assert len(run._arrivals) <= 2

    def test_a_sink_without_sound_is_given_none(self, renderer):
        class Deaf(ListSink):
            channels = 0

            def sound(self, waveform):
                pytest.fail("it takes no sound")

        report = LiveRun(StillStream(), renderer).through(ReadAhead(PIECES, 5), lambda _: Deaf())
        assert report.frames == 13
        assert RawFrames(io.BytesIO()).channels == 0
