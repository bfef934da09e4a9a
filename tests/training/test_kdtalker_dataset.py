"""KDTalker's clips: files, windows, who is held out, statistics. All data is made here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import read_statistics
from talking_portrait.training.kdtalker_dataset import (
    Clip,
    data_digest,
    draw_windows,
    long_enough,
    open_clips,
    person_of,
    read_into_memory,
    read_windows,
    shortest_clip,
    split_by_person,
    usable_starts,
    write_clip,
)
from talking_portrait.training.kdtalker_statistics import (
    dataset_statistics,
    moments_of,
    read_dataset_statistics,
    write_statistics,
)


def counting_clip(frames: int, name: str = "a/1", offset: float = 0.0) -> Clip:
    """Every number of frame i is i plus an offset, a half more in the sound and a quarter in the keypoints."""
    count = np.arange(frames, dtype=np.float32)[:, None] + offset
    return Clip(
        name, count.repeat(70, axis=1), count.repeat(63, axis=1) + 0.25, count.repeat(512, axis=1) + 0.5
    )


def stored(folder, clips):
    for clip in clips:
        path = folder / f"{clip.name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, clip)
    return open_clips(folder)


@settings(max_examples=40, deadline=None)
@given(
    frames=st.lists(st.integers(10, 60), min_size=1, max_size=4),
    window=st.integers(1, 8),
    seed=st.integers(0, 2**40),
    step=st.integers(0, 10**6),
)
def test_the_reference_is_just_before_the_window_and_sound_and_motion_are_of_the_same_frames(
    frames, window, seed, step
):
    clips = [counting_clip(count, f"{i}", 1000.0 * i) for i, count in enumerate(frames)]
    starts = np.array([usable_starts(count, window) for count in frames])
    drawn = draw_windows(starts, 16, seed, step)
    windows = read_windows(clips, drawn, window)
    first = drawn.firsts + 1000.0 * drawn.clips
    after = first[:, None] + 1 + np.arange(window)
    assert (windows.reference[:, 0] == first).all()
    assert (windows.canonical[:, 0] == first + 0.25).all()
    assert (windows.motion[:, :, 0] == after).all()
    assert (windows.audio[:, :, 0] == after + 0.5).all()
    last = drawn.firsts + window
    assert (last <= np.array(frames)[drawn.clips] - 2).all()


@given(window=st.integers(1, 100))
def test_the_shortest_clip_gives_one_window(window):
    assert usable_starts(shortest_clip(window), window) == 1
    assert usable_starts(shortest_clip(window) - 1, window) == 0


def test_every_place_of_a_clip_is_drawn_the_last_one_too():
    drawn = draw_windows(np.array([3]), 200, 1, 0)
    assert set(drawn.firsts.tolist()) == {0, 1, 2}


@given(clips=st.integers(1, 9), batch=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_clip_has_its_turn_before_any_has_another(clips, batch, seed):
    starts = np.full(clips, 5)
    drawn = np.concatenate([draw_windows(starts, batch, seed, step).clips for step in range(clips)])
    for epoch in range(batch):
        assert sorted(drawn[epoch * clips : (epoch + 1) * clips]) == list(range(clips))


def test_draws_depend_on_seed_and_step_alone():
    starts = np.arange(1, 30)
    again = [draw_windows(starts, 64, 5, 17) for _ in range(2)]
    assert (again[0].firsts == again[1].firsts).all()
    assert (again[0].clips == again[1].clips).all()
    assert (draw_windows(starts, 64, 6, 17).clips != again[0].clips).any()
    assert (draw_windows(starts, 64, 5, 18).clips != again[0].clips).any()


def test_clips_on_disk_give_what_clips_in_memory_give(tmp_path):
    files = stored(tmp_path, [counting_clip(20, "a/1"), counting_clip(25, "b/2", 7.0)])
    assert [(clip.name, clip.frames) for clip in files] == [
        ("a/1.safetensors", 20),
        ("b/2.safetensors", 25),
    ]
    steps = []
    loaded = read_into_memory(files, lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]
    drawn = draw_windows(np.array([5, 6]), 8, 0, 0)
    for one, other in zip(read_windows(files, drawn, 4), read_windows(loaded, drawn, 4), strict=True):
        assert one.dtype == np.float32
        assert (one == other).all()


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("motion", np.zeros((5, 69)), "motion has shape"),
        ("audio", np.zeros((4, 512)), r"audio has shape \(4, 512\), expected \(5, 512\)"),
        ("canonical", np.full((5, 63), np.nan), "canonical holds NaN or infinity"),
    ],
)
def test_a_clip_says_what_is_wrong_with_it(part, values, message):
    parts = {"motion": np.zeros((5, 70)), "canonical": np.zeros((5, 63)), "audio": np.zeros((5, 512))}
    with pytest.raises(ValueError, match=f"talk.mp4: {message}"):
        Clip("talk.mp4", **{**parts, part: values})


def test_nan_on_disk_is_found_where_it_is_read(tmp_path):
    motion = np.zeros((20, 70), np.float32)
    motion[10, 3] = np.nan
    parts = {
        "motion": motion,
        "canonical": np.zeros((20, 63), np.float32),
        "audio": np.zeros((20, 512), np.float32),
    }
    save_file(parts, tmp_path / "bad.safetensors", {"kdtalker_clip": "1"})
    (clip,) = open_clips(tmp_path)
    clip.window(0, 5)
    with pytest.raises(ValueError, match=r"bad\.safetensors: motion holds NaN"):
        clip.window(8, 5)
    with pytest.raises(ValueError, match=r"bad\.safetensors: motion holds NaN"):
        dataset_statistics([clip])


def test_folders_without_clips(tmp_path):
    with pytest.raises(ValueError, match=r"holds no clips.*train kdtalker extract"):
        open_clips(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_clips(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        open_clips(tmp_path / "file")


def test_files_of_another_kind_are_named(tmp_path):
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is not a clip for KDTalker.*weight"):
        open_clips(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(ValueError, match=r"model\.safetensors is not a whole safetensors file"):
        open_clips(tmp_path)


def test_short_clips_are_named_and_left_out():
    fitting, short = long_enough([counting_clip(10, "long"), counting_clip(5, "brief")], 8)
    assert [clip.name for clip in fitting] == ["long"]
    assert short == ["brief (5 frames)"]
    with pytest.raises(ValueError, match=r"no clip has the 66 frames.*brief \(5 frames\)"):
        long_enough([counting_clip(5, "brief")], 64)


@given(
    names=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, unique=True),
    share=st.floats(0, 0.9),
)
def test_no_person_is_on_both_sides(names, share):
    clips = [counting_clip(3, f"p{person}/{take}") for person, take in names]
    training, held_out = split_by_person(clips, share)
    people = {person_of(clip.name) for clip in training}, {person_of(clip.name) for clip in held_out}
    assert not people[0] & people[1]
    assert len(training) + len(held_out) == len(clips)
    assert people[0]
    assert bool(people[1]) == (share > 0 and len(people[0] | people[1]) > 1)


def test_the_digest_tells_datasets_apart():
    clips = [counting_clip(5, "a"), counting_clip(6, "b")]
    assert data_digest(clips) == data_digest(list(clips))
    assert data_digest(clips) != data_digest(clips[:1])


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_moments_are_those_of_all_rows_together(sizes, seed):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(3, 2, size=(size, 4)).astype(np.float32) for size in sizes]
    joined = moments_of(parts[0])
    for part in parts[1:]:
        joined = joined.joined(moments_of(part))
    together = np.concatenate(parts).astype(np.float64)
    spread = together.std(axis=0)
    assert np.allclose(joined.mean, together.mean(axis=0))
    assert np.allclose(joined.deviation, np.where(spread > 0, spread, 1.0))


def test_what_never_moves_has_deviation_one_however_it_is_rounded():
    rows = np.full((1000, 1), 0.1, np.float32)
    assert moments_of(rows).joined(moments_of(rows[:7])).deviation.tolist() == [1.0]


def test_statistics_are_kept_as_kdtalker_keeps_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="train kdtalker statistics"):
        read_dataset_statistics(tmp_path)
    rng = np.random.default_rng(3)
    clip = Clip("a", rng.normal(size=(30, 70)), rng.normal(size=(30, 63)), np.zeros((30, 512)))
    found = dataset_statistics(stored(tmp_path, [clip]))
    again = read_statistics(write_statistics(found, tmp_path))
    assert np.allclose(again.motion_std, clip.motion.std(axis=0), rtol=1e-5)
    assert np.allclose(again.canonical_mean, clip.canonical.mean(axis=0), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "norm.npz"]


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_wrong_statistics_file_is_refused(tmp_path, content):
    if content is None:
        np.savez(tmp_path / "norm.npz", yaw_mean=np.zeros(2))
    else:
        (tmp_path / "norm.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"norm\.npz"):
        read_dataset_statistics(tmp_path)
