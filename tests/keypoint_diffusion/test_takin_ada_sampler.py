"""Speech to motion scores: seeds, variations, lengths, windows, head control, emotion, and inputs that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.audio.embedding import LOG_MEL
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.audio.listening_blocks import ListenerStream
from talking_portrait.core_models.audio.mel import FLOOR_DB, scale_decibels
from talking_portrait.core_models.keypoint_diffusion import takin_ada_sampler
from talking_portrait.core_models.keypoint_diffusion.takin_ada import TakinADAModel
from talking_portrait.core_models.keypoint_diffusion.takin_ada_sampler import (
    TakinADASamplingParameters,
    emotion_scores,
    required_encoder,
    sample_scores,
)
from talking_portrait.core_models.keypoint_diffusion.takin_ada_sampler import hidden_states as heard_states
from talking_portrait.core_models.keypoint_diffusion.takin_ada_stream import Direction
from talking_portrait.core_models.types import EMOTION_NAMES, Emotion

from .takin_ada_models import (
    SMALL,
    SMALL_LISTENING,
    SMALL_STREAMING,
    log_mel,
    made,
    smooth_speech,
    speech,
    takin_ada,
)

FEW = TakinADASamplingParameters(steps=3)
EXPRESSION = list(SMALL.layout.expression)


@pytest.fixture(scope="module")
def model() -> TakinADAModel:
    """Hears whole clips."""
    return takin_ada()


@pytest.fixture(scope="module")
def streaming_model() -> TakinADAModel:
    return takin_ada(SMALL_STREAMING)


@pytest.fixture(
    scope="module", params=[SMALL, SMALL_STREAMING, SMALL_LISTENING], ids=["whole", "stream", "mel"]
)
def any_model(request) -> TakinADAModel:
    return takin_ada(request.param)


def heard_by(model, seconds, seed=0):
    return speech(seconds, seed) if model.parameters_used.listener is None else log_mel(seconds, seed)


def scores_of(model, embedding, direction=None, **changes):
    return sample_scores(model, embedding, replace(FEW, **changes), direction).scores


def relative(a, b) -> float:
    return float((a - b).abs().max() / b.abs().max())


class TestSeeds:
    def test_the_same_seed_gives_the_same(self, any_model):
        embedding = heard_by(any_model, 0.7)
        first = scores_of(any_model, embedding, seed=4)
        assert torch.equal(first, scores_of(any_model, embedding, seed=4))
        assert relative(scores_of(any_model, embedding, seed=5), first) > 1e-2

    @pytest.mark.parametrize("guidance", [1.0, 2.0])
    def test_a_variation_is_the_clip_of_its_seed(self, any_model, guidance):
        embedding = heard_by(any_model, 0.6)
        together = scores_of(any_model, embedding, seed=4, variations=3, guidance=guidance)
        assert together.shape == (3, 15, 58)
        for index in range(3):
            alone = scores_of(any_model, embedding, seed=4 + index, guidance=guidance)[0]
            assert relative(together[index], alone) < 1e-7

    def test_after_the_largest_seed_comes_the_first(self, model):
        embedding = speech(0.2)
        last = scores_of(model, embedding, seed=2**64 - 1, variations=2)
        assert relative(last[1], scores_of(model, embedding, seed=0)[0]) < 1e-7

    def test_without_spread_all_seeds_are_one(self, model):
        embedding = speech(0.4)
        still = scores_of(model, embedding, seed=1, temperature=0.0)
        assert torch.equal(still, scores_of(model, embedding, seed=2, temperature=0.0))


class TestLength:
    @given(seconds=st.floats(0.001, 1.2), off=st.integers(-3, 3))
    @settings(deadline=None, max_examples=15)
    def test_as_many_frames_as_the_sound_has(self, model, streaming_model, seconds, off):
        whole = speech(seconds)
        rows = torch.cat([whole.features, made(3, 3, 8)])[: max(1, len(whole.features) + off)]
        embedding = replace(whole, features=rows)
        for one in (model, streaming_model):
            made_frames = sample_scores(one, embedding, FEW)
            assert made_frames.scores.shape == (1, frame_count(seconds, 25), 58)
            assert made_frames.closed.shape == (frame_count(seconds, 25),)
            assert torch.isfinite(made_frames.scores).all()
            assert ((made_frames.closed >= 0) & (made_frames.closed <= 1)).all()

    def test_steps_beyond_the_sound_are_not_heard(self, model):
        embedding = speech(0.4)
        longer = replace(embedding, features=torch.cat([embedding.features, made(9, 3, 8)]))
        assert torch.equal(scores_of(model, longer), scores_of(model, embedding))

    def test_the_last_step_is_held_where_features_end_early(self, model):
        embedding = speech(0.4)
        held = torch.cat([embedding.features[:15], embedding.features[14:15].expand(5, -1, -1)])
        short = replace(embedding, features=embedding.features[:15])
        assert torch.equal(scores_of(model, short), scores_of(model, replace(embedding, features=held)))


@pytest.fixture(scope="module")
def windowed() -> TakinADAModel:
    """Hears whole clips; trained, as it were, on two seconds."""
    return takin_ada(replace(SMALL, window=50))


@pytest.fixture(scope="module")
def long_speech():
    """More than is made at once."""
    return smooth_speech(32.0)


def window_beginnings(frames=800, window=50, overlap=25):
    return list(range(window - overlap, frames - overlap, window - overlap))


class TestLongClipsInWindows:
    def test_no_seam(self, windowed, long_speech):
        """Slow speech and no noise give slow motion, and where windows meet it moves no faster than within them."""
        motion = scores_of(windowed, long_speech, temperature=0.0)[0]
        assert motion.shape == (800, 58)
        jumps = motion.diff(dim=0).abs().mean(dim=1)
        away_from_ends = [first - 1 for first in window_beginnings() if 100 < first < 780]
        seams, steady = jumps[away_from_ends], jumps[100:780]
        assert seams.max() <= steady.max()
        assert seams.max() < 3 * steady.median()  # 58 times without the cross-fade

    def test_bounded(self, windowed, long_speech):
        motion = scores_of(windowed, long_speech)
        assert motion.abs().max() < 3 * scores_of(windowed, smooth_speech(4.0)).abs().max()

    @pytest.mark.parametrize("guidance", [1.0, 2.0])
    def test_each_window_starts_from_the_frame_before(self, windowed, long_speech, guidance, monkeypatch):
        told, tokens = [], windowed.tokens

        def watched(x, timesteps, conditions):
            told.append(conditions.start)
            return tokens(x, timesteps, conditions)

        monkeypatch.setattr(windowed, "tokens", watched)
        motion = scores_of(windowed, long_speech, steps=1, variations=2, guidance=guidance)
        assert told[0] is None
        for start, first in zip(told[1:], window_beginnings(), strict=True):
            torch.testing.assert_close(start[:2], motion[:, first - 1])
            torch.testing.assert_close(start[-2:], motion[:, first - 1])

    def test_a_window_shorter_than_the_usual_overlap(self, long_speech):
        short = takin_ada(replace(SMALL, window=20))
        assert scores_of(short, long_speech, steps=1).shape == (1, 800, 58)


def test_guidance_of_one_is_no_guidance(any_model):
    """The cheap way and the way of all other guidances meet at 1."""
    embedding = heard_by(any_model, 0.5)
    unguided = scores_of(any_model, embedding)
    assert relative(scores_of(any_model, embedding, guidance=1.0 + 1e-12), unguided) < 1e-6
    assert relative(scores_of(any_model, embedding, guidance=3.0), unguided) > 1e-3


def test_guidance_of_zero_hears_no_emotion(any_model):
    embedding = heard_by(any_model, 0.5)
    happy, sad = (
        Direction(
            given=lambda first, count, name=name: {
                "emotion": emotion_scores(any_model, Emotion.mixed({name: 1}))(first, count)
            }
        )
        for name in ("happy", "sad")
    )
    flat = scores_of(any_model, embedding, happy, guidance=0.0)
    assert relative(scores_of(any_model, embedding, sad, guidance=0.0), flat) < 1e-9
    assert relative(scores_of(any_model, embedding, sad), scores_of(any_model, embedding, happy)) > 1e-3


def with_emotion(model, emotion, base=None) -> Direction:
    rows = emotion_scores(model, emotion, base)
    return Direction(given=lambda first, count: {"emotion": rows(first, count)})


class TestEmotion:
    def test_every_emotion_makes_another_expression(self, any_model):
        embedding = heard_by(any_model, 0.6)
        made_scores = [
            scores_of(any_model, embedding, with_emotion(any_model, Emotion.mixed({name: 1.0})))[
                0, :, EXPRESSION
            ]
            for name in EMOTION_NAMES
        ]
        for index, one in enumerate(made_scores):
            for other in made_scores[:index]:
                assert relative(one, other) > 1e-3

    def test_strength_counts(self, model):
        embedding = speech(0.6)
        none, some, more = (
            scores_of(model, embedding, with_emotion(model, Emotion.mixed({"happy": 1.0}, strength)))
            for strength in (0.0, 0.5, 1.0)
        )
        neutral = scores_of(model, embedding, with_emotion(model, Emotion.mixed({"neutral": 1.0})))
        assert relative(none, neutral) < 1e-9
        assert relative(some, neutral) > 1e-3
        assert relative(more, some) > 1e-3

    def test_without_one_what_is_heard_is_shown(self, model):
        embedding = speech(0.6)
        states = heard_states(model, embedding, 15)
        heard = model.adapters["emotion"].predict(model.heard(states))[0][0]
        given = Direction(given=lambda first, count: {"emotion": heard[first : first + count]})
        assert relative(scores_of(model, embedding, given), scores_of(model, embedding)) < 1e-9

    def test_it_changes_when_the_keys_say(self, streaming_model):
        """Before the change nothing differs: a causal generator does not know what is to come."""
        embedding = speech(1.6)
        weights = np.zeros((2, 7), np.float32)
        weights[:, 1] = 1
        turn = Emotion(weights, np.array([0.0, 1.0]), np.array([0.8, 0.84]))
        still = Emotion(weights[:1], np.array([0.0]))
        changed = scores_of(streaming_model, embedding, with_emotion(streaming_model, turn))[0]
        base = scores_of(streaming_model, embedding, with_emotion(streaming_model, still))[0]
        difference = (changed - base).abs().amax(dim=1)
        assert (difference[:20] < 1e-9 * base.abs().max()).all()
        assert (difference[21:] > 1e-3).all()

    def test_rows_are_those_of_the_frames_centres(self, model):
        weights = np.zeros((2, 7), np.float32)
        weights[:, 3] = 1
        rising = emotion_scores(model, Emotion(weights, np.array([0.0, 2.0]), np.array([0.0, 2.0])))
        rows = rising(10, 5) - model.neutral_emotion
        times = (torch.arange(10, 15).double() + 0.5) / 25
        torch.testing.assert_close(rows, times[:, None] * model.affective_vectors[3], atol=1e-6, rtol=1e-5)

    def test_a_base_is_where_it_is_counted_from(self, model):
        embedding, happy = speech(0.6), Emotion.mixed({"happy": 1.0})
        base = model.neutral_emotion + 0.5
        moved = scores_of(model, embedding, with_emotion(model, happy, base))
        assert relative(moved, scores_of(model, embedding, with_emotion(model, happy))) > 1e-3
        same = scores_of(model, embedding, with_emotion(model, happy, model.neutral_emotion))
        assert torch.equal(same, scores_of(model, embedding, with_emotion(model, happy)))

    def test_unknown_ones_are_refused_where_they_are_made(self):
        with pytest.raises(ValueError, match="unknown emotion 'bored'"):
            Emotion.mixed({"bored": 1.0})
        with pytest.raises(ValueError, match="no emotion has a positive weight"):
            Emotion.mixed({"happy": 0.0})


class TestHeadControl:
    @pytest.mark.parametrize("seconds", [1.0, 32.0])
    def test_it_is_kept_exactly_and_the_rest_goes_with_it(self, any_model, seconds):
        embedding = heard_by(any_model, seconds)
        frames = frame_count(seconds, 25)
        angles, location = made(frames, 3, seed=8), made(frames, 3, seed=9)

        def given_rows(first, count):
            inside = slice(first, first + count)
            return {"angles": angles[inside], "location": location[inside]}

        free = scores_of(any_model, embedding, variations=2)
        held = scores_of(any_model, embedding, Direction(given=given_rows), variations=2)
        for row in held.float():
            assert torch.equal(row[:, 52:55], angles)
            assert torch.equal(row[:, 55:58], location)
        assert relative(held[..., :52], free[..., :52]) > 1e-3

    def test_angles_alone(self, model):
        angles = made(15, 3)
        direction = Direction(given=lambda first, count: {"angles": angles[first : first + count]})
        held = scores_of(model, speech(0.6), direction)
        assert torch.equal(held[0, :, 52:55].float(), angles)
        assert held[0, :, 55:58].std() > 0


def test_pieces_of_a_long_clip_are_one_stream(streaming_model, monkeypatch):
    embedding = speech(2.0)
    whole = scores_of(streaming_model, embedding, variations=2)
    monkeypatch.setattr(takin_ada_sampler, "PIECE_FRAMES", 7)
    shown = []
    made_frames = sample_scores(
        streaming_model, embedding, replace(FEW, variations=2), piece_done=lambda scores: shown.append(scores)
    )
    assert relative(made_frames.scores, whole) < 1e-7
    assert [one.shape[1] for one in shown] == [5, 12, 19, 26, 33, 40, 47, 48, 50]
    assert torch.equal(shown[-1], made_frames.scores)


def test_progress_rises_to_its_end(any_model):
    told = []
    sample_scores(
        any_model, heard_by(any_model, 0.6), FEW, progress=lambda done, total: told.append((done, total))
    )
    done = [one for one, _ in told]
    assert done == sorted(done)
    assert len({total for _, total in told}) == 1
    assert done[-1] == told[-1][1]

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_scores(any_model, heard_by(any_model, 0.6), FEW, progress=cancel)


def test_a_bounded_future_is_enough_where_a_clip_is_whole():
    """It looks ahead a few frames, so it cannot stream; a whole clip it can make."""
    generator = replace(SMALL_STREAMING.generator, look_ahead=1)
    bounded = takin_ada(replace(SMALL_STREAMING, generator=generator))
    assert bounded.parameters_used.frames_ahead is not None
    assert scores_of(bounded, speech(0.6)).shape == (1, 15, 58)


class TestWhatDoesNotFit:
    def test_features_of_another_encoder(self, model):
        with pytest.raises(ValueError, match="hears 'hubert' features but got 'log_mel'"):
            scores_of(model, log_mel(0.5))
        listening = takin_ada(SMALL_LISTENING)
        assert required_encoder(listening) == LOG_MEL
        with pytest.raises(ValueError, match="hears 'log_mel' features but got 'hubert'"):
            scores_of(listening, speech(0.5))

    @pytest.mark.parametrize(("layers", "width"), [(13, 8), (3, 768), (1, 8)])
    def test_another_hubert(self, model, layers, width):
        with pytest.raises(ValueError, match=f"{layers} hidden states, {width} wide") as caught:
            scores_of(model, speech(0.5, layers=layers, width=width))
        assert "3, 8 wide" in str(caught.value)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"guidance": -0.1}, "guidance is -0.1, expected 0 to 5"),
            ({"guidance": 5.1}, "guidance is 5.1"),
            ({"guidance": float("nan")}, "guidance is nan"),
            ({"steps": 0}, "steps is 0, expected 1 to 1000"),
            ({"steps": 1001}, "steps is 1001"),
            ({"temperature": -1.0}, "temperature is -1"),
            ({"temperature": float("inf")}, "temperature is inf"),
            ({"variations": 0}, "variations is 0"),
            ({"variations": 65}, "variations is 65, expected 1 to 64"),
        ],
    )
    def test_numbers_out_of_range(self, change, words):
        with pytest.raises(ValueError, match=words):
            TakinADASamplingParameters(**change)


@given(seconds=st.floats(0.04, 1.5), sizes=st.lists(st.integers(0, 40), max_size=9))
@settings(deadline=None, max_examples=10)
def test_a_listener_in_a_stream_hears_what_the_clip_hears(seconds, sizes):
    model = takin_ada(SMALL_LISTENING)
    embedding, frames = log_mel(seconds), frame_count(seconds, 25)
    states = heard_states(model, embedding, frames)
    assert states.shape == (1, 3, 2 * frames, 8)
    stream = ListenerStream(model.listener, SMALL_LISTENING.listening, float(scale_decibels(FLOOR_DB)))
    mel, first, pieces = embedding.features[:, 0].double(), 0, []
    for size in [*sizes, len(mel)]:
        pieces.append(stream.push(mel[first : first + size]))
        first += size
    pieces.append(stream.finish(2 * frames))
    streamed = torch.cat([piece for piece in pieces if piece is not None], dim=2)
    torch.testing.assert_close(streamed, states, atol=1e-9, rtol=1e-9)
