"""Takin-ADA's second stage while the speech goes on: the clip at once, computed here step by step, is the measure."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.core_models.keypoint_diffusion.schedule import alphas_cumprod
from talking_portrait.core_models.keypoint_diffusion.takin_ada import Conditions, TakinADAModel, causal
from talking_portrait.core_models.keypoint_diffusion.takin_ada_stream import (
    Denoising,
    Direction,
    FrameNoise,
    ScoreStream,
)
from torch import nn

from .takin_ada_models import SMALL, SMALL_KEYPOINTS, SMALL_STREAMING, hidden_states, made, takin_ada

AHEAD = 2
"""Frames that the small streaming model's encoder hears after a frame's own."""
KEYPOINTS = replace(SMALL_KEYPOINTS, encoder=SMALL_STREAMING.encoder, generator=SMALL_STREAMING.generator)


@pytest.fixture(scope="module")
def model() -> TakinADAModel:
    return takin_ada(SMALL_STREAMING)


def noise_of(seeds, frames, size, temperature=1.0):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    rows = [torch.stack([torch.randn(size, generator=one) for _ in range(frames)]) for one in generators]
    return temperature * torch.stack(rows).double()


def whole_clip(model, hidden, denoising: Denoising, direction: Direction | None = None):
    """DDIM over all frames at once, with classifier-free guidance, and given head control put into every x0."""
    direction = direction or Direction()
    frames, size = hidden.shape[2] // 2, model.parameters_used.layout.size
    given_rows = direction.given(0, frames)
    heard = model.heard(hidden)
    speech, emotion, _ = model.conditioned(heard, {k: v[None].double() for k, v in given_rows.items()}, {})
    signal = alphas_cumprod("ddpm").double()
    count = denoising.steps
    steps = [round(1000 * index / count) - 1 for index in range(count, 0, -1)]
    clips = []
    for x in noise_of(denoising.seeds, frames, size, denoising.temperature):
        x = x[None]
        for index, step in enumerate(steps):

            def epsilon(speech, x=x, step=step):
                start = None if direction.start is None else direction.start[None]
                source = None if direction.source is None else direction.source[None]
                return model.predicted(x, torch.tensor([step]), Conditions(speech, start, source))

            felt = epsilon(speech + emotion)
            if denoising.guidance != 1:
                flat = epsilon(speech + model.no_emotion)
                felt = flat + denoising.guidance * (felt - flat)
            a = signal[step]
            x0 = (x - (1 - a).sqrt() * felt) / a.sqrt()
            for name, columns in model.parameters_used.layout.controls.items():
                if name in given_rows:
                    x0[..., list(columns)] = given_rows[name].double()
            felt = (x - a.sqrt() * x0) / (1 - a).sqrt()
            a = signal[steps[index + 1]] if index + 1 < count else torch.tensor(1.0).double()
            x = a.sqrt() * x0 + (1 - a).sqrt() * felt
        clips.append(x)
    return torch.cat(clips), model.closure_logits(heard)[0].sigmoid() if hasattr(model, "closure") else None


def streamed(model, hidden, denoising, direction=None, sizes=(10**6,)):
    stream, made_frames, first = ScoreStream(model, denoising, direction or Direction()), [], 0
    for size in [*sizes, hidden.shape[2]]:
        piece = hidden[:, :, first : first + size]
        first += size
        if piece.shape[2]:
            made_frames.append(stream.push(piece))
    made_frames.append(stream.finish())
    made_frames = [one for one in made_frames if one is not None]
    closed = None
    if made_frames[0].closed is not None:
        closed = torch.cat([one.closed for one in made_frames])
    return torch.cat([one.scores for one in made_frames], dim=1), closed


def assert_same_scores(made_scores, expected):
    """Equal but for rounding, measured against the largest: untrained models make large numbers.

    The stream takes roots of the schedule in float32, whose rounding is 1e-7 of a value.
    """
    assert made_scores.shape == expected.shape
    assert (made_scores - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))


def turning(first, count):
    """Head control and emotion that change from frame to frame."""
    times = torch.arange(first, first + count).double()[:, None]
    return {
        "angles": torch.sin(times / torch.tensor([3.0, 5.0, 7.0])),
        "location": torch.cos(times / torch.tensor([4.0, 6.0, 8.0])),
        "emotion": torch.sin(times / 9 + torch.arange(SMALL.emotion_size)),
    }


class TestAnyDivisionGivesTheWholeClip:
    @given(
        frames=st.integers(1, 24),
        sizes=st.lists(st.integers(1, 13), max_size=12),
        guidance=st.sampled_from([1.0, 0.0, 2.5]),
        directed=st.booleans(),
        seed=st.integers(0, 99),
    )
    @settings(deadline=None, max_examples=25)
    def test_with_guidance_variations_and_what_is_given(self, model, frames, sizes, guidance, directed, seed):
        hidden = hidden_states(frames, seed)
        denoising = Denoising((seed, seed + 7), steps=3, guidance=guidance, temperature=0.8)
        direction = Direction(given=turning) if directed else Direction()
        expected, expected_closed = whole_clip(model, hidden, denoising, direction)
        scores, closed = streamed(model, hidden, denoising, direction, sizes)
        assert_same_scores(scores, expected)
        torch.testing.assert_close(closed, expected_closed, atol=1e-9, rtol=1e-9)
        if directed:
            rows = turning(0, frames)
            torch.testing.assert_close(scores[0, :, 52:55], rows["angles"], atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(scores[1, :, 55:58], rows["location"], atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    def test_with_a_start_and_a_source(self, guidance):
        model, hidden = takin_ada(KEYPOINTS), hidden_states(15)
        direction = Direction(made(70, seed=3).double(), made(63, seed=4).double())
        denoising = Denoising((1, 2), steps=4, guidance=guidance)
        expected, _ = whole_clip(model, hidden, denoising, direction)
        scores, closed = streamed(model, hidden, denoising, direction, [3, 1, 8, 2])
        assert_same_scores(scores, expected)
        assert closed is None
        elsewhere, _ = whole_clip(model, hidden, denoising, Direction(None, direction.source))
        assert (expected - elsewhere).abs().max() > 1e-3

    def test_twenty_steps_frame_by_frame(self, model):
        hidden, denoising = hidden_states(12), Denoising((5,), steps=20, guidance=1.5)
        expected, _ = whole_clip(model, hidden, denoising)
        assert_same_scores(streamed(model, hidden, denoising, sizes=[2] * 12)[0], expected)

    def test_only_some_head_control(self, model):
        direction = Direction(given=lambda first, count: {"location": turning(first, count)["location"]})
        hidden, denoising = hidden_states(9), Denoising((5,), steps=3)
        expected, _ = whole_clip(model, hidden, denoising, direction)
        assert_same_scores(streamed(model, hidden, denoising, direction, sizes=[4] * 4)[0], expected)


def test_frames_come_as_soon_as_they_are_certain(model):
    stream, hidden = ScoreStream(model, Denoising(steps=2), Direction()), hidden_states(20)
    for frame in range(20):
        new = stream.push(hidden[:, :, 2 * frame : 2 * frame + 2])
        heard = frame + 1
        assert stream.frames_done == max(0, heard - AHEAD)
        assert (new is None) == (heard <= AHEAD)
        assert new is None or new.scores.shape == (1, 1, 58)
    assert stream.finish().scores.shape == (1, AHEAD, 58)
    assert stream.frames_done == 20
    assert stream.finish() is None


def test_half_a_frame_waits(model):
    stream, hidden = ScoreStream(model, Denoising(steps=2), Direction()), hidden_states(5)
    assert stream.push(hidden[:, :, :5]) is None
    assert stream.push(hidden[:, :, 5:6]).scores.shape[1] == 1


def test_nothing_heard_makes_nothing(model):
    assert ScoreStream(model, Denoising(steps=2), Direction()).finish() is None


@pytest.mark.parametrize("frame", [0, 5, 11])
def test_a_frame_hears_the_bounded_future_and_no_more(model, frame):
    hidden, denoising = hidden_states(20), Denoising(steps=2)
    base, _ = streamed(model, hidden, denoising)
    after = hidden.clone()
    after[:, :, 2 * (frame + AHEAD + 1) :] += 1
    changed, _ = streamed(model, after, denoising)
    assert_same_scores(changed[:, : frame + 1], base[:, : frame + 1])
    within = hidden.clone()
    within[:, :, 2 * (frame + AHEAD) :] += 1
    assert (streamed(model, within, denoising)[0][:, frame] - base[:, frame]).abs().max() > 1e-4


def held_numbers(thing) -> int:
    """Numbers in all tensors that an object keeps, beside a model's weights."""
    if isinstance(thing, torch.Tensor):
        return thing.untyped_storage().nbytes() // thing.element_size()
    if isinstance(thing, nn.Module):
        return 0
    if isinstance(thing, dict):
        return sum(map(held_numbers, thing.values()))
    if isinstance(thing, list | tuple):
        return sum(map(held_numbers, thing))
    return held_numbers(vars(thing)) if hasattr(thing, "__dict__") and not callable(thing) else 0


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_memory_does_not_grow(model, guidance):
    stream = ScoreStream(model, Denoising((0, 1), 2, guidance), Direction(given=turning))
    held = []
    for index in range(60):
        stream.push(hidden_states(3, seed=index))
        held.append(held_numbers(stream))
    assert held[0] < held[12]
    assert len(set(held[12:])) == 1
    behind = SMALL_STREAMING.encoder.frames_behind
    kept = stream._hidden.shape[2] // 2
    assert kept <= behind + 1 + AHEAD


def test_whole_clip_models_are_refused_with_advice():
    for parameters in (SMALL, replace(SMALL, encoder=causal(SMALL.encoder, 3, 1))):
        with pytest.raises(ValueError, match="a stream needs look_ahead"):
            ScoreStream(takin_ada(parameters), Denoising(), Direction())


def test_noise_is_the_same_however_it_is_drawn():
    whole = FrameNoise([3, 4], 58, 1.0).next(9)
    parts = FrameNoise([3, 4], 58, 1.0)
    assert torch.equal(torch.cat([parts.next(4), parts.next(1), parts.next(4)], dim=1), whole)
    assert torch.equal(FrameNoise([4], 58, 1.0).next(9)[0], whole[1])
    assert torch.equal(FrameNoise([3, 4], 58, 0.5).next(9), 0.5 * whole)
    long = FrameNoise([0], 50, 1.0).next(2000)
    assert abs(float(long.mean())) < 0.02
    assert float(long.std()) == pytest.approx(1, abs=0.02)


def test_steps_are_told_and_can_be_cancelled(model):
    told = []
    stream = ScoreStream(model, Denoising(steps=4), Direction(), lambda: told.append(1))
    stream.push(hidden_states(5))
    assert len(told) == 4

    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ScoreStream(model, Denoising(steps=4), Direction(), cancel).push(hidden_states(5))


def test_a_model_of_clean_motion_gives_what_it_predicts():
    """With one step the result is the prediction itself, for noise as well as for clean motion."""
    hidden, denoising = hidden_states(9), Denoising((4,), 1)
    for prediction in ("x0", "epsilon"):
        model = takin_ada(replace(SMALL_STREAMING, prediction=prediction, schedule="cosine"))
        made_scores, _ = streamed(model, hidden, denoising, sizes=(4, 7))
        speech, emotion, _ = model.conditioned(model.heard(hidden), {}, {})
        noise = FrameNoise((4,), SMALL.layout.size, 1.0).next(9).double()
        predicted = model.predicted(noise, torch.tensor([999]), Conditions(speech + emotion))
        signal = alphas_cumprod("cosine").double()[999]
        clean = predicted if prediction == "x0" else (noise - (1 - signal).sqrt() * predicted) / signal.sqrt()
        assert_same_scores(made_scores, clean)


def test_other_predictions_are_refused():
    with pytest.raises(ValueError, match="prediction is 'v', expected 'epsilon' or 'x0'"):
        replace(SMALL_STREAMING, prediction="v")
