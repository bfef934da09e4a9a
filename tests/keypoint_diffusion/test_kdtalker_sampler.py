"""KDTalker's sampling as users meet it: lengths, seeds, variations, seams, a given head, cancelling, wrong inputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from talking_portrait.core_models.audio.embedding import LOG_MEL
from talking_portrait.core_models.audio.frame_clock import frame_count
from talking_portrait.core_models.keypoint_diffusion import kdtalker_sampler
from talking_portrait.core_models.keypoint_diffusion.kdtalker import KDTalkerModel
from talking_portrait.core_models.keypoint_diffusion.kdtalker_performance import (
    KDTalkerOptions,
    PerformanceParameters,
    speaking_motion,
)
from talking_portrait.core_models.keypoint_diffusion.kdtalker_sampler import (
    KDTalkerSamplingParameters,
    motion_of_portrait,
    padded_features,
    sample_readings,
)
from talking_portrait.core_models.keypoint_diffusion.motion_vectors import (
    EXPRESSION,
    POSE,
    SCALE,
    motion_vectors,
)
from talking_portrait.core_models.keypoint_diffusion.windows import fade_in, seeded_noise, window_starts
from talking_portrait.core_models.motion.keypoint_driving import moved_readings
from talking_portrait.core_models.types import BLENDSHAPES, IMPLICIT_KEYPOINTS, AudioEmbedding, FaceMotion

QUICK = KDTalkerSamplingParameters(steps=2)
NO_BLINKS = PerformanceParameters(blinks_per_minute=0)


def sample(model, source, embedding, **settings):
    return sample_readings(model, source, embedding, KDTalkerSamplingParameters(**{"steps": 2, **settings}))


class TestWindows:
    @given(st.integers(1, 1000), st.integers(2, 64), st.integers(0, 63))
    def test_they_cover_the_clip_and_share_what_is_asked(self, frames, window, overlap):
        overlap = min(overlap, window - 1)
        starts = window_starts(frames, window, overlap)
        assert starts[0] == 0
        assert set(np.diff(starts)) <= {window - overlap}
        assert starts[-1] + window >= frames
        assert len(starts) == 1 or starts[-1] + overlap < frames, "no window is only a repetition"

    def test_an_overlap_of_a_whole_window_is_refused(self):
        with pytest.raises(ValueError, match="overlap is 64"):
            window_starts(100, 64, 64)

    def test_a_seeds_noise_does_not_depend_on_the_others(self):
        assert torch.equal(seeded_noise([1, 2], 5, 3)[1], seeded_noise([2], 5, 3)[0])


class TestLengths:
    @pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.04, 0.8, 2.559, 2.561, 5.4])
    @pytest.mark.parametrize("padding", ["silence", "repeat"])
    def test_as_many_frames_as_the_clock_says(
        self, small_kdtalker, source_reading, speech_embedding, seconds, padding
    ):
        """Also for speech shorter than half a window, of which the release gives too many frames."""
        for overlap in (0, 8):
            (made,) = sample(
                small_kdtalker,
                source_reading,
                speech_embedding(seconds),
                overlap=overlap,
                audio_padding=padding,
            )
            assert made.frame_count == frame_count(seconds, 25)

    @pytest.mark.parametrize("fps", [12.5, 23.976, 29.97, 30, 60])
    def test_other_rates(self, small_kdtalker, source_reading, speech_embedding, fps):
        options = KDTalkerOptions(QUICK, PerformanceParameters(fps=fps))
        (motion,) = speaking_motion(small_kdtalker, source_reading, speech_embedding(3.3), options)
        assert (motion.fps, motion.frame_count) == (fps, frame_count(3.3, fps))

    def test_an_hour_of_speech(self, small_kdtalker, source_reading):
        embedding = AudioEmbedding(torch.zeros(1, 1, 512).expand(90_000, -1, -1), 25.0, 3600.0, "wav2lip")
        (made,) = sample(small_kdtalker, source_reading, embedding, steps=1)
        assert made.frame_count == 90_000
        assert np.isfinite(made.keypoints).all()


class TestPadding:
    def test_silence_follows_the_speech(self, speech_embedding):
        embedding = speech_embedding(1.0)
        padded = padded_features(embedding, 25, 64, "silence")
        assert torch.equal(padded[:25], embedding.features[:25, 0])
        assert (padded[25:] == 0.1).all()

    @pytest.mark.parametrize("frames", [1, 20, 31, 63])
    def test_repeating_goes_on_as_long_as_needed(self, speech_embedding, frames):
        embedding = speech_embedding(frames / 25)
        padded = padded_features(embedding, frames, 64, "repeat")
        assert torch.equal(padded, embedding.features[torch.arange(64) % frames, 0])

    def test_an_embedding_without_silence_holds_its_last_row(self, speech_embedding):
        embedding = speech_embedding(1.0, tail=0)
        assert torch.equal(padded_features(embedding, 25, 30, "silence")[-1], embedding.features[-1, 0])


class TestSeeds:
    def test_a_seed_repeats_itself_and_another_differs(
        self, small_kdtalker, source_reading, speech_embedding
    ):
        one, again, other = (
            sample(small_kdtalker, source_reading, speech_embedding(4.0), seed=seed)[0] for seed in (3, 3, 4)
        )
        assert np.array_equal(one.expression, again.expression)
        assert np.abs(one.expression - other.expression).max() > 1e-3

    def test_variations_are_the_next_seeds(self, small_kdtalker, source_reading, speech_embedding):
        speech = speech_embedding(4.0)
        together = sample(small_kdtalker, source_reading, speech, seed=7, variations=3)
        for index, made in enumerate(together):
            (alone,) = sample(small_kdtalker, source_reading, speech, seed=7 + index)
            assert np.allclose(motion_vectors(made), motion_vectors(alone), atol=1e-3)

    def test_many_variations_go_in_groups(
        self, small_kdtalker, source_reading, speech_embedding, monkeypatch
    ):
        """So that one step stays short; the clips and the progress are those of one group."""
        speech, told = speech_embedding(1.0), []
        together = sample(small_kdtalker, source_reading, speech, variations=3)
        monkeypatch.setattr(kdtalker_sampler, "VARIATIONS_AT_ONCE", 2)
        parameters = KDTalkerSamplingParameters(steps=2, variations=3)
        grouped = sample_readings(
            small_kdtalker, source_reading, speech, parameters, progress=lambda *step: told.append(step)
        )
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
        for one, other in zip(together, grouped, strict=True):
            assert np.allclose(motion_vectors(one), motion_vectors(other), atol=1e-3)

    def test_the_largest_seed_has_a_successor(self, small_kdtalker, source_reading, speech_embedding):
        assert KDTalkerSamplingParameters(seed=2**64 - 1, variations=2).seeds == [2**64 - 1, 0]
        sample(small_kdtalker, source_reading, speech_embedding(0.1), seed=2**64 - 1, variations=2)


class TestOtherWindows:
    @pytest.mark.parametrize("window", [4, 8, 16])
    def test_a_model_of_short_windows_overlaps_by_half_at_most(
        self, source_reading, speech_embedding, window
    ):
        """The paper's ablations go down to 8 frames: the default overlap of 8 would leave nothing to go on by."""
        from .conftest import SMALL, made_statistics

        model = KDTalkerModel(replace(SMALL, window=window), made_statistics()).eval()
        (made,) = sample(model, source_reading, speech_embedding(1.3))
        assert made.frame_count == 33

    @pytest.mark.parametrize("left_out", ["attention", "canonical_token"])
    def test_the_papers_ablations_speak_too(self, source_reading, speech_embedding, left_out):
        from .conftest import SMALL, made_statistics

        model = KDTalkerModel(replace(SMALL, **{left_out: False}), made_statistics()).eval()
        (made,) = sample(model, source_reading, speech_embedding(3))
        assert np.isfinite(made.keypoints).all()


class TestSeams:
    def test_hard_seams_are_windows_side_by_side(self, small_kdtalker, source_reading, speech_embedding):
        """Without overlap the first window of a long clip is the whole of a short one, as in the release."""
        speech = speech_embedding(64 / 25 * 2)
        short = AudioEmbedding(speech.features[:64], 25.0, 64 / 25, speech.encoder)
        (long,) = sample(small_kdtalker, source_reading, speech, overlap=0, smoothing=0)
        (first,) = sample(small_kdtalker, source_reading, short, overlap=0, smoothing=0)
        assert np.allclose(motion_vectors(long)[:64], motion_vectors(first), atol=1e-3)

    @given(st.integers(1, 32))
    def test_a_fade_takes_even_steps(self, overlap):
        """What two windows differ by is gone over in steps of at most twice the average one."""
        weights = fade_in(64, overlap)[:, 0].numpy()
        steps = np.diff(np.concatenate([[0], weights[: overlap + 1]]))
        assert steps.max() <= 2 / (overlap + 1)
        assert (steps >= 0).all()


class TestPortrait:
    def test_the_head_keeps_its_size(self, small_kdtalker, source_reading, speech_embedding):
        for choice, same in (("source", True), ("generated", False)):
            (made,) = sample(small_kdtalker, source_reading, speech_embedding(1), scale=choice)
            assert (made.scale == source_reading.scale[0]).all() == same

    def test_absolute_motion_is_drawn_as_it_was_made(self, small_kdtalker, source_reading, speech_embedding):
        (made,) = sample(small_kdtalker, source_reading, speech_embedding(1))
        motion = motion_of_portrait(source_reading, made, "absolute")
        assert np.allclose(moved_readings(source_reading, motion).keypoints, made.keypoints, atol=1e-4)

    def test_relative_motion_begins_at_the_portrait(self, small_kdtalker, source_reading, speech_embedding):
        (made,) = sample(small_kdtalker, source_reading, speech_embedding(1))
        motion = motion_of_portrait(source_reading, made, "relative")
        first = moved_readings(source_reading, motion).keypoints[0]
        assert np.allclose(first, source_reading.keypoints[0], atol=1e-5)

    def test_smoothing_calms_all_but_the_size(self, small_kdtalker, source_reading, speech_embedding):
        wild, calm = (
            motion_vectors(
                sample(
                    small_kdtalker, source_reading, speech_embedding(3), smoothing=amount, scale="generated"
                )[0]
            )
            for amount in (0, 5.0)
        )
        for part in (POSE, EXPRESSION):
            assert (
                np.abs(np.diff(calm[:, part], axis=0)).mean()
                < 0.7 * np.abs(np.diff(wild[:, part], axis=0)).mean()
            )
        assert np.allclose(calm[:, SCALE], wild[:, SCALE])


class TestGivenHead:
    def nod(self, frames=50, space=IMPLICIT_KEYPOINTS, fps=25.0):
        pitch = 10 * np.sin(np.linspace(0, 4 * np.pi, frames))
        still = FaceMotion.at_rest(frames, fps, space)
        return replace(still, rotation=np.stack([pitch, np.zeros(frames), np.zeros(frames)], axis=1))

    def perform(self, model, source, speech, pose, **performance):
        options = KDTalkerOptions(QUICK, replace(NO_BLINKS, **performance))
        return speaking_motion(model, source, speech, options, pose)[0]

    def test_it_is_taken_exactly(self, small_kdtalker, source_reading, speech_embedding):
        nod = self.nod()
        motion = self.perform(small_kdtalker, source_reading, speech_embedding(2), nod)
        assert np.allclose(motion.rotation, nod.rotation, atol=1e-3)
        assert np.allclose(motion.translation, 0)
        free = self.perform(small_kdtalker, source_reading, speech_embedding(2), None)
        assert np.abs(free.rotation - nod.rotation).max() > 1
        assert np.abs(free.expression - motion.expression).max() > 1e-6, "the model knows of the head"

    @pytest.mark.parametrize("gains", [{"head_motion": 0.5}, {"strength": 2.0}, {"pitch": 0.0, "yaw": 2.0}])
    def test_gains_are_of_what_is_made_not_of_what_is_given(
        self, small_kdtalker, source_reading, speech_embedding, gains
    ):
        motion = self.perform(small_kdtalker, source_reading, speech_embedding(2), self.nod(), **gains)
        assert np.allclose(motion.rotation, self.nod().rotation, atol=1e-3)

    def test_a_shorter_one_goes_back_and_forth(self, small_kdtalker, source_reading, speech_embedding):
        nod = self.nod(frames=20)
        motion = self.perform(small_kdtalker, source_reading, speech_embedding(2), nod)
        assert np.allclose(motion.rotation[20:39], motion.rotation[18::-1], atol=1e-3)

    def test_blendshapes_serve_too(self, small_kdtalker, source_reading, speech_embedding):
        motion = self.perform(
            small_kdtalker, source_reading, speech_embedding(2), self.nod(space=BLENDSHAPES)
        )
        assert motion.space == IMPLICIT_KEYPOINTS
        assert np.allclose(motion.rotation, self.nod().rotation, atol=1e-3)

    def test_gains_per_axis(self, small_kdtalker, source_reading, speech_embedding):
        speech = speech_embedding(2)
        free = self.perform(small_kdtalker, source_reading, speech, None)
        tame = self.perform(small_kdtalker, source_reading, speech, None, pitch=0, yaw=0.5, roll=1)
        assert np.allclose(tame.rotation, free.rotation * [0, 0.5, 1], atol=1e-4)
        still = self.perform(small_kdtalker, source_reading, speech, None, head_motion=0)
        assert np.allclose(still.rotation, 0, atol=1e-4)
        assert np.allclose(still.scale, 1)

    def test_strength_is_of_everything(self, small_kdtalker, source_reading, speech_embedding):
        none = self.perform(small_kdtalker, source_reading, speech_embedding(1), None, strength=0)
        assert np.allclose(none.expression, 0)
        assert np.allclose(none.rotation, 0, atol=1e-4)

    def test_the_portrait_at_rest_does_not_blink(self, small_kdtalker, source_reading, speech_embedding):
        performance = {"strength": 0, "blinks_per_minute": 30.0}
        still = self.perform(small_kdtalker, source_reading, speech_embedding(20), None, **performance)
        assert np.allclose(still.expression, 0)

    def test_the_mouth_alone(self, small_kdtalker, source_reading, speech_embedding):
        speech = speech_embedding(1)
        free = self.perform(small_kdtalker, source_reading, speech, None).expression.reshape(-1, 21, 3)
        shut = self.perform(small_kdtalker, source_reading, speech, None, mouth=0).expression.reshape(
            -1, 21, 3
        )
        mouth = [6, 12, 14, 17, 19, 20]
        assert np.allclose(shut[:, mouth], 0)
        assert np.allclose(np.delete(shut, mouth, axis=1), np.delete(free, mouth, axis=1))


class TestWork:
    def test_progress_counts_every_step_and_can_cancel(
        self, small_kdtalker, source_reading, speech_embedding
    ):
        told = []
        sample_readings(
            small_kdtalker,
            source_reading,
            speech_embedding(5),
            KDTalkerSamplingParameters(steps=3),
            progress=lambda done, total: told.append((done, total)),
        )
        assert told == [(index, 9) for index in range(1, 10)]

        class CancelledError(Exception):
            pass

        def cancel(done, total):
            if done == 2:
                raise CancelledError

        with pytest.raises(CancelledError):
            sample_readings(small_kdtalker, source_reading, speech_embedding(5), QUICK, progress=cancel)

    def test_inputs_stay_as_they_were(self, small_kdtalker, source_reading, speech_embedding):
        speech = speech_embedding(3)
        before = speech.features.clone()
        sample(small_kdtalker, source_reading, speech)
        assert torch.equal(speech.features, before)


class TestWrongInputs:
    def test_features_of_another_encoder(self, small_kdtalker, source_reading, speech_embedding):
        other = replace(speech_embedding(1), encoder=LOG_MEL)
        with pytest.raises(ValueError, match="hears 'wav2lip' features but got 'log_mel'"):
            sample(small_kdtalker, source_reading, other)

    def test_a_film(self, small_kdtalker, source_reading, speech_embedding):
        film = source_reading.rows(np.array([0, 0, 0]))
        with pytest.raises(ValueError, match="film of 3 frames"):
            sample(small_kdtalker, film, speech_embedding(1))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("steps", 0), ("variations", 0), ("variations", 65), ("overlap", -1), ("overlap", 64)),
            *(("spacing", "linspace"), ("audio_padding", "mirror"), ("mode", "both"), ("scale", "none")),
            *(("temperature", -1.0), ("smoothing", -0.1), ("smoothing", float("nan"))),
        ],
    )
    def test_settings_out_of_range_are_named(self, name, value):
        with pytest.raises(ValueError, match=f"{name} is"):
            KDTalkerSamplingParameters(**{name: value})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("mouth", -1),
            ("strength", 9),
            ("pitch", float("nan")),
            ("blinks_per_minute", 31),
            ("longest_stare", 0),
        ],
    )
    def test_performances_out_of_range_are_named(self, name, value):
        with pytest.raises(ValueError, match=f"{name} is"):
            PerformanceParameters(**{name: value})


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_any_number_of_steps_ends_in_finite_motion(small_kdtalker, steps, spacing):
    tokens = (torch.zeros(70), torch.zeros(70))
    parameters = KDTalkerSamplingParameters(steps=steps, spacing=spacing)
    noise = seeded_noise([0], 64, 70)
    scores = kdtalker_sampler.sample_scores(
        small_kdtalker, tokens, torch.zeros(64, 512), [0], noise, parameters
    )
    assert torch.isfinite(scores).all()


def test_a_picture_after_every_window(small_kdtalker, source_reading, speech_embedding):
    pictures = []
    sample_readings(small_kdtalker, source_reading, speech_embedding(5), QUICK, preview=pictures.append)
    assert len(pictures) == 3
    assert all(picture.shape == (160, 512, 3) for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[1])
