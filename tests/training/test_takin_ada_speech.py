"""Training Takin-ADA's second stage: the recipe, statistics of the clips, windows, losses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from talking_portrait.training.takin_ada_speech import (
    SMALLEST_DEVIATION,
    TakinADASpeechTrainingParameters,
    averaged_expression,
    batch_of,
    draw_batch,
    learning_rate_at,
    masked_mean,
    new_model,
    set_statistics,
    training_loss,
)

from ..keypoint_diffusion.takin_ada_models import (
    SMALL,
    SMALL_KEYPOINTS,
    SMALL_STREAMING,
    takin_ada,
    with_made_weights,
)
from .takin_ada_clips import LAW, RECIPE, clip, labelled_clips


@pytest.fixture(scope="module")
def clips():
    return labelled_clips()


@pytest.fixture(scope="module")
def keypoint_clips():
    return [clip(index, parameters=SMALL_KEYPOINTS) for index in range(3)]


def made_model(clips, parameters=SMALL):
    """The statistics of the clips, and weights none of which is zero."""
    model = with_made_weights(new_model(parameters, clips, 0))
    return model.requires_grad_(True)


class TestAveragedExpression:
    @given(
        length=st.integers(1, 30), frames=st.integers(1, 12), clips=st.integers(1, 2), seed=st.integers(0, 99)
    )
    @settings(deadline=None, max_examples=40)
    def test_each_frame_is_the_mean_of_those_about_it(self, length, frames, clips, seed):
        rows = torch.randn(clips, length, 3, generator=torch.Generator().manual_seed(seed))
        made = averaged_expression(rows, frames)
        for at in range(length):
            inside = [
                other for other in range(length) if at - frames // 2 <= other < at - frames // 2 + frames
            ]
            torch.testing.assert_close(made[:, at], rows[:, inside].mean(dim=1), atol=1e-5, rtol=1e-4)

    @given(value=st.floats(-3, 3), length=st.integers(1, 40), frames=st.integers(1, 30))
    @settings(deadline=None, max_examples=25)
    def test_a_constant_stays(self, value, length, frames):
        rows = torch.full((length, 2), value)
        torch.testing.assert_close(averaged_expression(rows, frames), rows, atol=1e-6, rtol=1e-6)

    def test_ten_minutes_are_as_exact_as_one_second(self):
        rows = torch.full((15_000, 1), 2.7)
        torch.testing.assert_close(averaged_expression(rows, 25), rows, atol=1e-5, rtol=0)

    def test_one_frame_is_itself(self):
        rows = torch.randn(9, 2)
        torch.testing.assert_close(averaged_expression(rows, 1), rows)

    def test_precision_stays(self):
        assert averaged_expression(torch.zeros(3, 1, dtype=torch.float16), 2).dtype == torch.float16


class TestStatistics:
    def test_affective_vectors_are_the_law_that_made_the_clips(self, clips):
        model = new_model(SMALL, clips, 0)
        columns = list(SMALL.layout.expression)
        std = model.motion_std[columns].double().numpy()
        mean = model.motion_mean[columns].double().numpy()
        np.testing.assert_allclose(model.affective_vectors, LAW[:, columns] / std, atol=2e-4)
        np.testing.assert_allclose(model.neutral_emotion, (0.3 - mean) / std, atol=2e-4)
        assert not model.affective_vectors[0].any()
        assert not model.affective_vectors[6].any()

    def test_scores_have_the_training_datas_measure(self, clips):
        model = new_model(SMALL, clips, 0)
        scores = model.normalise(torch.from_numpy(np.concatenate([one.motion for one in clips])))
        torch.testing.assert_close(scores.mean(dim=0), torch.zeros(58), atol=1e-3, rtol=0)
        torch.testing.assert_close(scores.std(dim=0), torch.ones(58), atol=1e-2, rtol=0)

    def test_what_never_moves_has_a_deviation(self, clips):
        still = [replace(one, motion=np.full_like(one.motion, 0.2)) for one in clips]
        model = new_model(SMALL, still, 0)
        torch.testing.assert_close(model.motion_std, torch.full((58,), SMALLEST_DEVIATION))
        assert torch.isfinite(model.affective_vectors).all()

    def test_sources(self, keypoint_clips):
        model = new_model(SMALL_KEYPOINTS, keypoint_clips, 0)
        rows = np.stack([one.source for one in keypoint_clips])
        np.testing.assert_allclose(model.source_mean, rows.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(model.source_std, rows.std(axis=0), atol=1e-6)

    def test_clips_without_emotions_have_no_vectors(self, keypoint_clips):
        model = takin_ada(SMALL_KEYPOINTS).float()
        before = model.affective_vectors.clone()
        set_statistics(model, keypoint_clips)
        assert torch.equal(model.affective_vectors, before)
        assert not new_model(SMALL_KEYPOINTS, keypoint_clips, 0).affective_vectors.any()


class TestBatches:
    def test_a_window_is_the_clips_stretch(self, clips):
        model = new_model(SMALL, clips, 0)
        batch = batch_of(model, [clips[3], clips[4]], [5, 0])
        one, scores = clips[3], model.normalise(torch.from_numpy(clips[3].motion))
        assert batch.motion.shape == (2, 20, 58)
        torch.testing.assert_close(batch.motion[0], scores[5:25])
        torch.testing.assert_close(batch.before[0], scores[4])
        assert batch.first.tolist() == [False, True]
        hidden = torch.from_numpy(one.hidden_states[10:50]).transpose(0, 1)
        assert torch.equal(batch.hidden_states[0], hidden)
        assert torch.equal(batch.closed[0], torch.from_numpy(one.closed[5:25]))
        averaged = averaged_expression(scores[:, list(SMALL.layout.expression)], SMALL.emotion_window)
        torch.testing.assert_close(batch.emotion[0], averaged[5:25])  # of the whole clip, not of the window
        assert batch.valid.all()

    def test_a_short_clip_is_filled_up(self, clips):
        short = clip(90, 7)
        batch = batch_of(new_model(SMALL, clips, 0), [short, clips[3]], [0, 2])
        assert batch.valid.sum(dim=1).tolist() == [7, 20]
        assert not batch.motion[0, 7:].any()
        alone = batch_of(new_model(SMALL, clips, 0), [short], [0])
        assert alone.motion.shape[1] == 7

    def test_a_step_draws_the_same_windows_again_and_steps_draw_others(self, clips):
        model = new_model(SMALL, clips, 0)
        first, second = (draw_batch(model, clips, 4, 1, 3) for _ in range(2))
        assert torch.equal(first.motion, second.motion)
        assert not torch.equal(first.motion, draw_batch(model, clips, 4, 1, 4).motion)
        assert not torch.equal(first.motion, draw_batch(model, clips, 4, 2, 3).motion)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"hidden_states": np.zeros((59, 3, 8))}, "30 frames and 59 steps of speech"),
            ({"closed": np.zeros(29)}, "30 frames and 29 of closed lips"),
            ({"motion": np.zeros((1, 58)), "hidden_states": np.zeros((2, 3, 8))}, "1 frames"),
        ],
    )
    def test_clips_that_do_not_agree_are_named(self, change, words):
        with pytest.raises(ValueError, match=f"'clip 1' has {words}"):
            replace(clip(1), **change)


class TestLosses:
    def test_at_first_all_noise_is_missed(self, clips):
        """A denoiser that says nothing errs by the noise's variance."""
        model = new_model(SMALL, clips, 0)
        batch = draw_batch(model, clips, 32, 0, 0)
        losses = training_loss(model, batch, RECIPE, 0)
        assert losses.denoiser.item() == pytest.approx(1, abs=0.03)
        assert losses.closure.item() == pytest.approx(np.log(2), abs=0.25)

    @pytest.mark.parametrize("parameters", [SMALL, SMALL_STREAMING, SMALL_KEYPOINTS])
    def test_padding_changes_none_whatever_it_holds(self, parameters):
        data = [clip(1, 9, parameters=parameters), clip(2, 20, parameters=parameters)]
        model = made_model(data, parameters).eval()
        batch = batch_of(model, data, [0, 0])
        losses = training_loss(model, batch, RECIPE, 3)
        garbage = batch._replace(
            hidden_states=batch.hidden_states.clone(),
            **{name: getattr(batch, name).clone() for name in ("motion", "emotion", "closed")},
        )
        garbage.hidden_states[0, :, 18:] = 50
        for values in (garbage.motion, garbage.emotion, garbage.closed):
            values[0, 9:] = 1
        for name, expected in losses._asdict().items():
            made = getattr(training_loss(model, garbage, RECIPE, 3), name)
            torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5, msg=name)

    def test_the_goal_is_noise_or_clean_motion(self, clips):
        """Against a model that predicts zeros: noise is 1 on average, clean motion what the windows hold."""
        for prediction in ("epsilon", "x0"):
            model = new_model(replace(SMALL, prediction=prediction), clips, 0).eval()
            batch = draw_batch(model, clips, 8, 0, 0)
            loss = training_loss(model, batch, RECIPE, 0).denoiser.item()
            expected = 1.0 if prediction == "epsilon" else float(masked_mean(batch.motion**2, batch.valid))
            assert loss == pytest.approx(expected, abs=0.05 if prediction == "epsilon" else 1e-5)

    def test_the_parts_add_up_by_their_weights(self, clips):
        model = made_model(clips).eval()
        batch = draw_batch(model, clips, 4, 0, 0)
        recipe = replace(RECIPE, pose_weight=2.0, emotion_weight=3.0, closure_weight=0.5)
        parts = training_loss(model, batch, recipe, 0)
        expected = parts.denoiser + 2 * parts.pose + 3 * parts.emotion + 0.5 * parts.closure
        torch.testing.assert_close(parts.loss, expected)

    def test_every_weight_has_a_slope(self, clips):
        model = made_model(clips)
        batch = draw_batch(model, clips, 16, 0, 0)
        recipe = replace(RECIPE, emotion_dropout=0.5, start_dropout=0.5)
        training_loss(model, batch, recipe, 0).loss.backward()
        assert [name for name, value in model.named_parameters() if value.grad is None] == []
        flat = [name for name, value in model.named_parameters() if not value.grad.any()]
        assert flat == []

    def test_what_is_always_dropped_is_never_heard(self, clips):
        model = made_model(clips).eval()
        batch = draw_batch(model, clips, 4, 0, 0)
        other = batch._replace(emotion=batch.emotion + 1, before=batch.before + 1)
        dropped = replace(RECIPE, emotion_dropout=1.0, start_dropout=1.0)
        kept = replace(RECIPE, emotion_dropout=0.0, start_dropout=0.0)
        same = [training_loss(model, one, dropped, 0).denoiser for one in (batch, other)]
        assert same[0] == same[1]
        different = [training_loss(model, one, kept, 0).denoiser for one in (batch, other)]
        assert different[0] != different[1]

    def test_the_first_frame_has_no_start(self, clips):
        model = made_model(clips).eval()
        batch = batch_of(model, clips[:2], [0, 0])
        kept = replace(RECIPE, start_dropout=0.0)
        losses = [
            training_loss(model, one, kept, 0).denoiser
            for one in (batch, batch._replace(before=batch.before + 1))
        ]
        assert losses[0] == losses[1]

    def test_masked_mean(self):
        values = torch.tensor([[[1.0, 3.0], [100.0, 100.0]], [[2.0, 2.0], [4.0, 8.0]]])
        valid = torch.tensor([[True, False], [True, True]])
        assert masked_mean(values, valid).item() == pytest.approx(20 / 6)
        assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)).item() == 0


class TestRecipe:
    def test_travels_as_json(self):
        text = json.dumps(RECIPE.to_dict())
        assert TakinADASpeechTrainingParameters.from_dict(json.loads(text)) == RECIPE
        with pytest.raises(TypeError, match="depth"):
            TakinADASpeechTrainingParameters.from_dict({"depth": 3})

    def test_the_papers_lineage(self):
        recipe = TakinADASpeechTrainingParameters()
        assert (recipe.learning_rate, recipe.clip_norm, recipe.average_decay) == (1e-4, 1.0, 0.9999)
        assert recipe.emotion_dropout == 0.1
        assert recipe.pose_weight == recipe.emotion_weight == recipe.closure_weight == 1

    def test_learning_rate(self):
        recipe = replace(RECIPE, learning_rate=1.0, warmup_steps=4, steps=100, annealed=True)
        assert learning_rate_at(0, recipe) == pytest.approx(0.25)
        assert learning_rate_at(50, recipe) == pytest.approx(0.5)
        assert learning_rate_at(100, recipe) == pytest.approx(0, abs=1e-9)
        assert learning_rate_at(99, replace(recipe, annealed=False)) == 1
        assert learning_rate_at(0, RECIPE) == RECIPE.learning_rate

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"steps": 0}, "steps is 0"),
            ({"batch": 0}, "batch 0"),
            ({"emotion_dropout": 1.1}, "emotion_dropout is 1.1"),
            ({"given_share": -0.1}, "given_share is -0.1"),
            ({"average_decay": 2}, "average_decay is 2"),
            ({"learning_rate": 0.0}, "learning_rate is 0"),
            ({"learning_rate": float("nan")}, "learning_rate is nan"),
            ({"clip_norm": float("inf")}, "clip_norm is inf"),
            ({"pose_weight": -1.0}, "pose_weight is -1"),
            ({"closure_weight": float("nan")}, "closure_weight is nan"),
            ({"warmup_steps": -1}, "warmup_steps is -1"),
            ({"seed": -1}, "seed is -1"),
            ({"precision": "float16"}, "precision is 'float16'"),
        ],
    )
    def test_numbers_out_of_range(self, change, words):
        with pytest.raises(ValueError, match=words):
            TakinADASpeechTrainingParameters(**change)
