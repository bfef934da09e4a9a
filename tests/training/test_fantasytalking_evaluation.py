"""What the small FantasyTalking's measures mean: what a perfect generator scores, and what a setting changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.training import fantasytalking_evaluation as made
from talking_portrait.training import fantasytalking_readers as readers
from talking_portrait.training.fantasytalking_evaluation import (
    NAMELESS,
    PLAIN,
    SETTINGS,
    SILENT,
    TRUTH,
    EvaluationOptions,
    Setting,
)
from talking_portrait.training.fantasytalking_readers import ClipReadings, ReaderSteps, TalkingReader

from .fantasytalking_training_clips import FRAMES, clip, tiny_autoencoder, tiny_model, tiny_parameters

CLIPS = [clip(0, person=0), clip(1, person=0), clip(2, person=2), clip(3, person=3)]
MEASURES = {"mouth follows", "mouth moves", "face moves", "body moves", "likeness", "likeness of others"}
QUICK = EvaluationOptions(steps=1)


class TruthReader:
    """Knows the frames of the made clips."""

    def read(self, frames):
        (found,) = [one for one in CLIPS if np.array_equal(one.frames, frames)]
        person = np.eye(4)[found.identity_seed]
        return ClipReadings(found.mouth_opening, found.turn, found.place, person)


@pytest.fixture(scope="module")
def model():
    return tiny_model().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_autoencoder()


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(2)
    return TalkingReader().eval().requires_grad_(False)


class TestMeasures:
    def test_truth_scores_as_it_should(self):
        one = CLIPS[0]
        people = np.eye(4)
        found = made.measures(TruthReader().read(one.frames), one, [people[0]], [people[2], people[3]])
        assert set(found) == MEASURES
        assert found["mouth follows"] == pytest.approx(1)
        assert found["mouth moves"] == pytest.approx(one.mouth_opening.std())
        assert found["face moves"] == pytest.approx(np.sqrt(one.turn.var(axis=0).sum()), rel=1e-5)
        assert found["body moves"] == pytest.approx(np.sqrt(one.place.var(axis=0).sum()), rel=1e-5)
        assert (found["likeness"], found["likeness of others"]) == (1, 0)

    def test_what_stands_still_scores_0(self):
        still = ClipReadings(np.ones(FRAMES), np.ones((FRAMES, 2)), np.ones((FRAMES, 2)), np.eye(4)[1])
        found = made.measures(still, CLIPS[0], [np.eye(4)[0]], [])
        assert "likeness of others" not in found
        assert not any(found.values())

    def test_a_person_is_compared_with_their_other_clips(self):
        assert made.references_of(CLIPS[0], CLIPS) == [CLIPS[1]]
        assert made.references_of(CLIPS[2], CLIPS) == [CLIPS[2]]

    def test_trials_are_spread_over_the_clips(self):
        assert made.chosen_clips(CLIPS, 2) == [CLIPS[0], CLIPS[3]]
        assert made.chosen_clips(CLIPS, 4) == CLIPS
        for count in (0, 5):
            with pytest.raises(ValueError, match=f"4 clips for {count} trials"):
                made.chosen_clips(CLIPS, count)


class TestMeasured:
    def test_a_perfect_generator_scores_as_the_truth(self, model, monkeypatch):
        monkeypatch.setattr(made, "made_frames", lambda model, vae, one, setting, options: one.frames)
        monkeypatch.setattr(made, "clip_latents", lambda vae, frames: frames)
        monkeypatch.setattr(made, "frames_of_latents", lambda vae, frames: frames)
        told = []
        found = made.measured(
            model, None, TruthReader(), CLIPS, 2, progress=lambda done, total: told.append((done, total))
        )
        assert told == [(1, 2), (2, 2)]
        assert list(found) == [TRUTH, *SETTINGS]
        assert all(values == found[TRUTH] for values in found.values())
        assert found[PLAIN]["likeness"] == 1
        expected = np.mean([np.sqrt(one.turn.var(axis=0).sum()) for one in (CLIPS[0], CLIPS[3])])
        assert found[PLAIN]["face moves"] == pytest.approx(expected, rel=1e-5)

    def test_a_model_is_measured_under_every_setting(self, model, autoencoder, reader):
        found = made.measured(model, autoencoder, reader, CLIPS, 1, QUICK)
        assert list(found) == [TRUTH, *SETTINGS]
        assert all(set(values) == MEASURES for values in found.values())
        assert np.isfinite([value for values in found.values() for value in values.values()]).all()

    def test_settings_that_change_nothing_are_left_out(self):
        bare = tiny_model(replace(tiny_parameters(), identity=None, portrait_encoder=None, intensity=None))
        assert set(made.settings_of(bare)) == {PLAIN, SILENT}
        assert made.made_frames(bare, tiny_autoencoder(), CLIPS[0], options=QUICK).shape[0] == FRAMES

    def test_the_papers_coefficients_are_there(self):
        assert sorted({one.face for one in SETTINGS.values()}) == [0.1, 0.5, 1.0]
        assert SETTINGS[NAMELESS].identity_scale == 0


class TestMadeFrames:
    def frames(self, model, autoencoder, setting=SETTINGS[PLAIN], one=CLIPS[0], **options):
        return made.made_frames(model, autoencoder, one, setting, replace(QUICK, **options))

    def test_the_same_seed_is_the_same_clip(self, model, autoencoder):
        frames = self.frames(model, autoencoder)
        assert (frames.shape, frames.dtype) == ((FRAMES, 64, 64, 3), np.uint8)
        np.testing.assert_array_equal(frames, self.frames(model, autoencoder))
        assert not np.array_equal(frames, self.frames(model, autoencoder, seed=1))

    def test_what_is_switched_off_is_not_seen(self, model, autoencoder):
        """Sound and identity; the noise is the same."""
        silent, nameless = Setting(audio_scale=0.0), Setting(identity_scale=0.0)
        quiet = replace(CLIPS[0], heard=np.zeros_like(CLIPS[0].heard))
        np.testing.assert_array_equal(
            self.frames(model, autoencoder, silent), self.frames(model, autoencoder, silent, quiet)
        )
        assert not np.array_equal(self.frames(model, autoencoder), self.frames(model, autoencoder, one=quiet))
        assert not np.array_equal(self.frames(model, autoencoder), self.frames(model, autoencoder, nameless))

    def test_coefficients_and_hearing_are_passed_on(self, model, autoencoder):
        plain = self.frames(model, autoencoder)
        for changed in (Setting(face=1.0), Setting(body=0.1)):
            assert not np.array_equal(plain, self.frames(model, autoencoder, changed))
        assert not np.array_equal(plain, self.frames(model, autoencoder, hearing="clip"))
        assert not np.array_equal(plain, self.frames(model, autoencoder, audio_guidance=1.0))

    def test_only_the_clips_own_sound_is_heard(self, model):
        sound = made.sound_of(model, CLIPS[0])
        assert (sound.rate, sound.duration, sound.encoder) == (50.0, FRAMES / 12.5, "pocket_listener")
        np.testing.assert_array_equal(sound.features.numpy(), CLIPS[0].heard_within.astype(np.float32))


@pytest.fixture(scope="module")
def fitted():
    return readers.fitted_talking_reader(CLIPS, steps=ReaderSteps(2, 2, 2))


class TestReaders:
    def test_places_are_learned_from_frames_and_their_mirror_images(self):
        """A bright square on grey; its place is told."""
        shown = [square(seed) for seed in range(6)]
        reader = readers.fitted_place_reader(shown, steps=80)
        other = square(9)
        read = reader.read(other.frames)
        assert np.abs(read[:, :2] - other.place).mean() < 5
        mirrored = reader.read(np.ascontiguousarray(other.frames[:, :, ::-1]))
        assert np.abs(mirrored[:, 0] - (63 - other.place[:, 0])).mean() < 5

    def test_true_places_are_those_of_neck_and_face_box(self):
        places = readers.true_places(CLIPS[0])
        np.testing.assert_array_equal(places[:, :2], CLIPS[0].place)
        # Pixels 12 to 51, whose middles are whole numbers, and 8 to 55.
        np.testing.assert_allclose(places[0, 2:], [31.5, 31.5])

    def test_a_file_holds_all_of_it(self, fitted, tmp_path):
        readers.write_talking_reader(fitted, tmp_path / "r.safetensors")
        loaded = readers.load_talking_reader(tmp_path / "r.safetensors")
        one, other = (each.read(CLIPS[0].frames) for each in (fitted, loaded))
        for name in ("mouth", "turn", "place", "person"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        with pytest.raises(ValueError, match="safetensors"):
            readers.write_talking_reader(fitted, tmp_path / "r.bin")

    def test_the_same_seed_gives_the_same_reader(self, fitted):
        again = readers.fitted_talking_reader(CLIPS, steps=ReaderSteps(2, 2, 2))
        for name, value in again.state_dict().items():
            assert torch.equal(value, fitted.state_dict()[name]), name

    def test_quality_names_what_is_read(self, fitted):
        found = readers.reader_quality(fitted, CLIPS)
        assert {"mouth_opening", "yaw", "neck x", "people found"} < set(found)
        assert 0 <= found["people found"] <= 1
        assert np.isnan(readers.people_found(fitted, CLIPS[2:]))

    def test_people_are_grouped_over_their_clips(self):
        people = readers.faces_of_people(CLIPS, [one.frames for one in CLIPS])
        assert {person: len(clips) for person, clips in people.items()} == {0: 4, 2: 2, 3: 2}


def square(seed: int):
    """A clip that shows a bright square on grey where its neck and face are."""
    one, rng = clip(seed), np.random.default_rng(seed)
    places = rng.integers(12, 52, (FRAMES, 2))
    frames = np.full((FRAMES, 64, 64, 3), 90, np.uint8)
    for frame, (x, y) in zip(frames, places, strict=True):
        frame[y - 4 : y + 5, x - 4 : x + 5] = 240
    box = np.concatenate([places - 4, places + 5], axis=1).astype(np.int32)
    return replace(one, frames=frames, place=places.astype(np.float32), face_box=box)
