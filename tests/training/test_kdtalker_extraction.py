"""Clips out of folders of videos: good, bad, changed and half-done ones. The networks are small or doubles."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from talking_portrait.core_models.audio.decode import Sound
from talking_portrait.core_models.audio.wav2lip_encoder import Wav2LipSpeechEncoder, encode_frames
from talking_portrait.core_models.audio.wav2lip_mel import wav2lip_mel
from talking_portrait.core_models.face.landmarker import DetectedFace, landmarks_box
from talking_portrait.core_models.face.pose import project_shape
from talking_portrait.core_models.face.topology import canonical_face
from talking_portrait.core_models.motion.motion_extractor import (
    ExtractedMotion,
    MotionExtractor,
    MotionExtractorParameters,
)
from talking_portrait.core_models.types import BLENDSHAPE_NAMES, HeadPose
from talking_portrait.core_models.video_file import write_video
from talking_portrait.training.kdtalker_dataset import open_clips
from talking_portrait.training.kdtalker_extraction import (
    ExtractionNetworks,
    ExtractionSettings,
    extract_clip,
    extract_dataset,
    face_pictures,
    heard_waveform,
    summary,
    video_files,
)

SHORT = ExtractionSettings(shortest=5)
SIZE = (96, 128)


class KnownFace:
    """A landmarker that finds one face, in the middle or where it is told, unless the frame is nearly black."""

    def __init__(self, places=None):
        self.places, self.asked = places, 0

    def detect(self, frame, max_faces=10, at_least=1, search_tiles=True):
        if frame.max() < 8:
            return []
        place = (frame.shape[1] / 2, frame.shape[0] / 2) if self.places is None else self.places[self.asked]
        self.asked += 1
        points = np.zeros((478, 3))
        points[:468] = project_shape(
            canonical_face().vertices, HeadPose((0, 0, 0), (place[0], -place[1], 0), 2.0)
        )
        return [DetectedFace(points, np.zeros(len(BLENDSHAPE_NAMES)), 1.0, landmarks_box(points[:468]))]

    def track(self, frame, previous):
        return next(iter(self.detect(frame)), None)


class ReadsBrightness(torch.nn.Module):
    """The scale is the mean brightness of the picture's middle, 0..255; all else is zero."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.largest_batch = 0

    def forward(self, image):
        self.largest_batch = max(self.largest_batch, len(image))
        count = len(image)
        level = 255 * image[:, :, 100:156, 100:156].mean(dim=(1, 2, 3))
        flat, face = torch.zeros(count, 66), torch.zeros(count, 63)
        return ExtractedMotion(flat, flat, flat, torch.zeros(count, 3), face, level[:, None], face)


@pytest.fixture(scope="module")
def speech_encoder():
    torch.manual_seed(0)
    return Wav2LipSpeechEncoder().eval()


@pytest.fixture
def networks(speech_encoder):
    return ExtractionNetworks(KnownFace(), ReadsBrightness(), speech_encoder)


def noise(seconds: float, rate: int = 16000, loudness: float = 0.3) -> Sound:
    rng = np.random.default_rng(1)
    return Sound(loudness * rng.uniform(-1, 1, (1, round(seconds * rate))).astype(np.float32), rate)


def video(path: Path, levels, fps: float = 25, sound: Sound | None = None) -> Path:
    """A film whose frames are evenly bright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [np.full((*SIZE, 3), level, np.uint8) for level in levels], fps, sound)
    return path


def report(folder: Path) -> dict[str, dict]:
    lines = (folder / "report.jsonl").read_text().splitlines()
    return {entry["file"]: entry for entry in map(json.loads, lines)}


def test_a_clip_holds_each_frames_motion_and_what_is_heard_with_it(tmp_path, networks, speech_encoder):
    levels = np.linspace(60, 200, 12).round()
    path = video(tmp_path / "a.mp4", levels, sound=noise(12 / 25))
    clip = extract_clip(path, "a.mp4", networks, SHORT).clip
    assert np.abs(clip.motion[:, 0] - levels).max() < 4
    waveform = heard_waveform(path)
    expected = encode_frames(speech_encoder, wav2lip_mel(waveform), 12)
    assert np.abs(clip.audio - expected.numpy()).max() < 1e-5
    assert clip.frames == len(clip.audio) == 12


@pytest.mark.parametrize("fps", [12.5, 30, 50])
def test_other_rates_are_brought_to_25_by_the_nearest_frame(tmp_path, networks, fps):
    count = round(fps * 0.8)
    levels = np.linspace(60, 200, count).round()
    path = video(tmp_path / "a.mp4", levels, fps, noise(0.8))
    clip = extract_clip(path, "a", networks, SHORT).clip
    assert clip.frames == 20
    exact = np.interp(np.arange(20) / 25, np.arange(count) / fps, levels)
    assert np.abs(clip.motion[:, 0] - exact).max() < 0.5 * (levels[1] - levels[0]) + 4


def test_a_clip_ends_with_its_sound(tmp_path, networks):
    path = tmp_path / "a.mkv"
    import av

    with av.open(str(path), "w") as container:  # write_video would pad the sound
        pictures, sound = (
            container.add_stream("libx264", rate=25),
            container.add_stream("pcm_s16le", rate=16000),
        )
        pictures.width, pictures.height, pictures.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        sound.layout = "mono"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((*SIZE, 3), 100, np.uint8), format="rgb24")
            frame.pts = index
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
        samples = (8000 * np.sin(np.arange(10 * 640 + 300) * 0.3)).astype(np.int16)[None]
        block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        block.sample_rate = 16000
        container.mux(sound.encode(block))
        container.mux(sound.encode(None))
    assert extract_clip(path, "a", networks, SHORT).clip.frames == 10


def test_the_longest_stretch_with_the_face_is_taken(tmp_path, networks):
    levels = [100] * 6 + [0] * 2 + [150] * 9 + [0] * 3
    path = video(tmp_path / "a.mp4", levels, sound=noise(0.8))
    extracted = extract_clip(path, "a", networks, SHORT)
    assert (extracted.first_frame, extracted.clip.frames, extracted.video_frames) == (8, 9, 20)
    assert np.abs(extracted.clip.motion[:, 0] - 150).max() < 4
    whole = encode_frames(networks.speech_encoder, wav2lip_mel(heard_waveform(path)), 20).numpy()
    assert np.abs(extracted.clip.audio - whole[8:17]).max() < 1e-5


def test_the_first_frame_places_the_crop_until_the_face_has_left_it():
    x = np.arange(256) // 2
    frame = np.broadcast_to(x[None, :, None], (128, 256, 3)).astype(np.uint8)
    places = [(60, 64), (64, 64), (200, 64), (204, 64)]
    pictures = list(face_pictures([frame] * 4, KnownFace(places)))
    assert [item.stretch for item in pictures] == [0, 0, 1, 1]
    assert (pictures[0].picture == pictures[1].picture).all()
    assert abs(int(pictures[0].picture[128, 128, 0]) - 30) <= 1
    assert abs(int(pictures[2].picture[128, 128, 0]) - 100) <= 1


def test_only_a_batch_of_frames_is_held(tmp_path, networks):
    alive = []

    def frames():
        import weakref

        for level in range(50, 90):
            frame = np.full((*SIZE, 3), level, np.uint8)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert sum(ref() is not None for ref in alive) <= 4

    assert len(list(face_pictures(frames(), KnownFace()))) == 40
    path = video(tmp_path / "a.mp4", [100] * 30, sound=noise(1.2))
    extract_clip(path, "a", networks, SHORT)
    assert networks.motion_extractor.largest_batch <= 16


def make_folder(folder: Path) -> None:
    video(folder / "anna" / "good.mp4", [100] * 10, sound=noise(0.4))
    video(folder / "bert" / "other.mp4", [120] * 12, sound=noise(0.48))
    video(folder / "mute.mp4", [100] * 10)
    video(folder / "silent.mp4", [100] * 10, sound=noise(0.4, loudness=0.0))
    video(folder / "faceless.mp4", [0] * 10, sound=noise(0.4))
    video(folder / "brief.mp4", [100] * 3, sound=noise(0.12))
    whole = (folder / "anna" / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("no video\n" * 40)
    (folder / "empty.mov").write_bytes(b"")
    (folder / ".hidden.mp4").write_bytes(b"x")


def test_bad_clips_are_reported_and_do_not_stop_the_run(tmp_path, networks):
    make_folder(tmp_path / "videos")
    reports = extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT)
    found = report(tmp_path / "data")
    assert {name for name, entry in found.items() if entry["status"] == "extracted"} == {
        "anna/good.mp4",
        "bert/other.mp4",
    }
    assert found["bert/other.mp4"]["frames"] == 12
    for name, reason in {
        "mute.mp4": "has no sound",
        "silent.mp4": "is silent",
        "faceless.mp4": "no face in any frame",
        "brief.mp4": "too short: its sound lasts 3 frames",
        "cut.mp4": "cut.mp4",
        "notes.txt": "notes.txt",
        "empty.mov": "0 bytes",
    }.items():
        assert found[name]["status"] == "bad"
        assert reason in found[name]["reason"], name
    assert len(found) == len(reports) == 9
    clips = open_clips(tmp_path / "data")
    assert [clip.name for clip in clips] == ["anna/good.mp4.safetensors", "bert/other.mp4.safetensors"]
    text = summary(reports)
    assert "2 extracted, 0 kept, 7 bad" in text
    assert "bad: mute.mp4" in text


class Counting(KnownFace):
    """Counts the frames that are looked at."""

    def __init__(self):
        super().__init__()
        self.looks = 0

    def detect(self, frame, **options):
        self.looks += 1
        return super().detect(frame, **options)


def test_what_is_there_already_is_kept_until_video_or_settings_change(tmp_path, speech_encoder):
    make_folder(tmp_path / "videos")
    networks = ExtractionNetworks(Counting(), ReadsBrightness(), speech_encoder)

    def run(settings=SHORT):
        networks.landmarker.looks = 0
        extract_dataset(tmp_path / "videos", tmp_path / "data", networks, settings)
        return {name: entry["status"] for name, entry in report(tmp_path / "data").items()}

    run()
    good = tmp_path / "data" / "anna" / "good.mp4.safetensors"
    before = good.stat().st_mtime_ns
    again = run()
    assert (again["anna/good.mp4"], again["bert/other.mp4"], again["mute.mp4"]) == ("kept", "kept", "bad")
    assert good.stat().st_mtime_ns == before
    assert report(tmp_path / "data")["anna/good.mp4"]["frames"] == 10
    video(tmp_path / "videos" / "anna" / "good.mp4", [90] * 11, sound=noise(0.44))
    changed = run()
    assert (changed["anna/good.mp4"], changed["bert/other.mp4"]) == ("extracted", "kept")
    good.write_bytes(good.read_bytes()[:50])
    assert run()["anna/good.mp4"] == "extracted"
    others = run(ExtractionSettings(shortest=5, networks={"motion_extractor": "another"}))
    assert others["bert/other.mp4"] == "extracted"


def test_a_clip_of_a_video_that_has_gone_bad_is_removed(tmp_path, networks):
    make_folder(tmp_path / "videos")
    extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT)
    video(tmp_path / "videos" / "anna" / "good.mp4", [0] * 11, sound=noise(0.44))
    extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT)
    assert [clip.name for clip in open_clips(tmp_path / "data")] == ["bert/other.mp4.safetensors"]


def test_cancelling_leaves_whole_clips_and_the_next_run_goes_on(tmp_path, networks):
    for name in "abc":
        video(tmp_path / "videos" / f"{name}.mp4", [100] * 10, sound=noise(0.4))
    calls = []

    def cancel_within_the_second(done, total):
        calls.append((done, total))
        if sum(entry[0] == 1 for entry in calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_dataset(
            tmp_path / "videos", tmp_path / "data", networks, SHORT, progress=cancel_within_the_second
        )
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "a.mp4.safetensors",
        "report.jsonl",
    ]
    extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT)
    statuses = [entry["status"] for entry in report(tmp_path / "data").values()]
    assert statuses == ["kept", "extracted", "extracted"]


def test_a_folder_without_a_usable_video_is_an_error_that_says_why(tmp_path, networks):
    video(tmp_path / "videos" / "mute.mp4", [100] * 10)
    with pytest.raises(ValueError, match=r"no video of .*mute\.mp4.*has no sound.*report\.jsonl"):
        extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT)
    assert report(tmp_path / "data")["mute.mp4"]["status"] == "bad"


def test_a_full_disk_is_no_bad_clip(tmp_path, networks, monkeypatch):
    video(tmp_path / "videos" / "a.mp4", [100] * 10, sound=noise(0.4))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("talking_portrait.training.kdtalker_extraction.write_clip", full)
    with pytest.raises(OSError, match="No space left"):
        extract_dataset(tmp_path / "videos", tmp_path / "data", networks, SHORT)


def test_folders_that_cannot_be_used(tmp_path, networks, monkeypatch):
    with pytest.raises(FileNotFoundError):
        video_files(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        video_files(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no files"):
        video_files(tmp_path / "empty")
    with pytest.raises(ValueError, match="another folder"):
        extract_dataset(tmp_path / "empty", tmp_path / "empty", networks)

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", forbidden)
    with pytest.raises(PermissionError):
        video_files(tmp_path / "empty")


def test_clips_below_the_videos_are_not_taken_for_videos(tmp_path, networks):
    folder = tmp_path / "videos"
    video(folder / "a.mp4", [100] * 10, sound=noise(0.4))
    for _ in range(2):
        extract_dataset(folder, folder / "clips", networks, SHORT)
    assert list(report(folder / "clips")) == ["a.mp4"]


@pytest.mark.parametrize(("name", "value"), [("shortest", 0), ("face_index", -1)])
def test_bad_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        ExtractionSettings(**{name: value})


def test_a_real_clip(tmp_path, shared_data, landmarker, speech_encoder):
    """A man who talks, 30 frames a second: the real face finder and a small random motion extractor."""
    torch.manual_seed(1)
    small = MotionExtractor(MotionExtractorParameters(depths=(1, 1, 1, 1), widths=(8, 8, 8, 8))).eval()
    networks = ExtractionNetworks(landmarker, small, speech_encoder)
    path = shared_data / "driving" / "man_suit_talk_700_30fps_audio.mp4"
    extracted = extract_clip(path, path.name, networks)
    assert extracted.first_frame == 0
    assert 150 <= extracted.clip.frames == extracted.video_frames <= 153
    assert extracted.clip.motion.std(axis=0).max() > 0
    assert extracted.clip.audio.std(axis=0).max() > 0
    silent = shared_data / "driving" / "man_talk_384_30fps_audio.mp4"
    with pytest.raises(ValueError, match="is silent"):
        extract_clip(silent, silent.name, networks)
