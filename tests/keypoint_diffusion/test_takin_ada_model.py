"""Takin-ADA's second stage itself: published sizes, what reaches the generator, schedule, parameters as text."""

import dataclasses
import json
from dataclasses import replace

import pytest
import torch
from talking_portrait.core_models.keypoint_diffusion.conformer import ConformerParameters
from talking_portrait.core_models.keypoint_diffusion.schedule import alphas_cumprod
from talking_portrait.core_models.keypoint_diffusion.takin_ada import (
    Conditions,
    TakinADAModel,
    TakinADAParameters,
    streaming,
)
from talking_portrait.core_models.keypoint_diffusion.variance_adapter import VarianceAdapter

from .takin_ada_models import (
    SMALL,
    SMALL_KEYPOINTS,
    SMALL_LISTENING,
    SMALL_STREAMING,
    hidden_states,
    made,
    takin_ada,
    with_made_weights,
)


@pytest.fixture(scope="module")
def published() -> TakinADAModel:
    with torch.device("meta"):
        return TakinADAModel(TakinADAParameters())


class TestPublishedSizes:
    def test_conformers(self, published):
        for conformer, blocks, width in ((published.encoder, 4, 512), (published.generator, 8, 1024)):
            p = conformer.parameters_used
            assert (len(conformer.blocks), p.width, p.heads, p.kernel) == (blocks, width, 2, 13)
            assert (p.expansion, p.dropout) == (1, 0.2)
            assert conformer.blocks[0].convolution.depthwise.weight.shape == (width, 1, 13)
            assert conformer.blocks[0].first_feed_forward[0].weight.shape == (width, width)

    def test_speech_model(self, published):
        assert published.layers.weights.shape == (25,)
        assert published.halve.convolution.weight.shape == (512, 1024, 3)
        assert published.halve.convolution.stride == (2,)

    def test_the_generator_hears_exactly_what_anitalker_joins(self, published):
        """512 of speech, and 128 each of start, source, time and noisy motion."""
        p = published.parameters_used
        parts = [published.start, published.source[-1], published.time, published.motion]
        assert [part.out_features for part in parts] == [128] * 4
        assert p.encoder.width + sum(part.out_features for part in parts) == p.generator.width == 1024
        tokens = published.tokens(
            torch.empty(2, 5, 70, device="meta"),
            torch.empty(2, device="meta"),
            Conditions(
                torch.empty(2, 5, 512, device="meta"),
                torch.empty(2, 70, device="meta"),
                torch.empty(2, 63, device="meta"),
            ),
        )
        assert tokens.shape == (2, 5, 1024)

    def test_adapters(self, published):
        assert set(published.adapters) == {"emotion", "angles", "location", "scale"}
        for name, size in (("emotion", 45), ("angles", 3), ("location", 3), ("scale", 1)):
            adapter = published.adapters[name]
            assert (adapter.predictor.input_size, adapter.predictor.hidden_size) == (512, 128)
            assert adapter.predictor.num_layers == 2
            assert adapter.prediction.out_features == adapter.encoder.input_size == size
            assert adapter.encoder.hidden_size == 512
            assert not adapter.predictor.bidirectional
            assert not adapter.encoder.bidirectional

    def test_a_frame_of_motion(self, published):
        assert published.output.out_features == 70
        assert published.parameters_used.window == 125
        assert published.parameters_used.emotion_window == 25

    def test_a_stream_has_the_same_weights(self, published):
        with torch.device("meta"):
            bounded = TakinADAModel(streaming(TakinADAParameters()))
        shapes = {name: value.shape for name, value in published.state_dict().items()}
        assert {name: value.shape for name, value in bounded.state_dict().items()} == shapes
        bounded.parameters_used.require_streamable()
        assert bounded.parameters_used.frames_ahead == 8


@pytest.mark.parametrize(
    "parameters",
    [TakinADAParameters(), SMALL, SMALL_STREAMING, SMALL_KEYPOINTS, SMALL_LISTENING],
    ids=["published", "small", "streaming", "keypoints", "listening"],
)
def test_parameters_travel_as_json(parameters):
    assert TakinADAParameters.from_dict(json.loads(json.dumps(parameters.to_dict()))) == parameters


@pytest.mark.parametrize("change", [{"depth": 3}, {"encoder": {"depth": 3}}, {"layout": {"space": "x"}}])
def test_strange_parameters_do_not_fit(change):
    with pytest.raises(TypeError):
        TakinADAParameters.from_dict({**SMALL.to_dict(), **change})
    short = SMALL.to_dict()
    del short["listening"]
    with pytest.raises(KeyError, match="listening"):
        TakinADAParameters.from_dict(short)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"token_width": 8}, "leaves nothing for the motion"),
        ({"emotion_window": 0}, "emotion_window is 0"),
        ({"window": 0}, "window is 0"),
        ({"layers": 0}, "layers is 0"),
    ],
)
def test_impossible_parameters(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **change)


def test_a_listener_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match="3 hidden states, 8 wide") as caught:
        replace(SMALL_LISTENING, layers=25)
    assert "25" in str(caught.value)
    with pytest.raises(ValueError, match="1024"):
        replace(SMALL_LISTENING, speech_width=1024)


@pytest.mark.parametrize(
    ("encoder", "generator", "words"),
    [
        (SMALL.encoder, SMALL.generator, "motion generator looks at all frames ahead"),
        (SMALL.encoder, SMALL_STREAMING.generator, "speech encoder hears the whole clip"),
        (SMALL_STREAMING.encoder, replace(SMALL_STREAMING.generator, look_ahead=1), "1 frames ahead"),
        (
            replace(SMALL_STREAMING.encoder, look_back=None),
            SMALL_STREAMING.generator,
            "hears the whole clip",
        ),
    ],
)
def test_what_cannot_stream_is_refused_with_advice(encoder, generator, words):
    with pytest.raises(ValueError, match=words) as caught:
        replace(SMALL, encoder=encoder, generator=generator).require_streamable()
    assert "look_back" in str(caught.value)
    SMALL_STREAMING.require_streamable()


def test_the_schedule_is_that_of_ho_et_al():
    signal = alphas_cumprod("ddpm").double()
    product, expected = 1.0, []
    for step in range(1000):
        product *= 1 - (1e-4 + (2e-2 - 1e-4) * step / 999)
        expected.append(product)
    torch.testing.assert_close(signal, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-4)
    assert TakinADAParameters().schedule == "ddpm"
    with pytest.raises(ValueError, match="unknown schedule 'sigmoid', expected 'linear', 'ddpm' or 'cosine'"):
        alphas_cumprod("sigmoid")


def predicted(model, x, step=500, **conditions):
    return model.predicted(x, torch.full((len(x),), step), Conditions(**conditions))


@pytest.fixture(scope="module")
def model() -> TakinADAModel:
    return takin_ada(SMALL_KEYPOINTS)


@pytest.fixture(scope="module")
def inputs(model):
    return {
        "x": made(1, 6, 70).double(),
        "speech": model.heard(hidden_states(6)),
        "start": made(1, 70, seed=1).double(),
        "source": made(1, 63, seed=2).double(),
    }


class TestWhatReachesTheGenerator:
    @pytest.mark.parametrize("name", ["x", "speech", "start", "source"])
    def test_every_condition(self, model, inputs, name):
        changed = {**inputs, name: inputs[name] + 0.5}
        assert (predicted(model, **changed) - predicted(model, **inputs)).abs().mean() > 1e-3

    def test_time(self, model, inputs):
        assert (
            predicted(model, step=10, **inputs) - predicted(model, step=900, **inputs)
        ).abs().mean() > 1e-3

    def test_no_start_is_the_learned_one(self, model, inputs):
        learned = {**inputs, "start": model.no_start[None]}
        assert torch.equal(predicted(model, **{**inputs, "start": None}), predicted(model, **learned))

    def test_a_source_is_needed_where_the_model_takes_one(self, model, inputs):
        with pytest.raises(ValueError, match="63 numbers of the source"):
            predicted(model, **{**inputs, "source": None})

    def test_start_source_and_time_are_repeated_in_every_frame(self, model, inputs):
        conditions = Conditions(inputs["speech"], inputs["start"], inputs["source"])
        tokens = model.tokens(inputs["x"], torch.tensor([3]), conditions)
        width = SMALL.encoder.width
        assert torch.equal(tokens[0, 0, width : width + 12], tokens[0, 5, width : width + 12])


class TestHeadControlAndEmotion:
    def test_what_is_given_takes_the_place_of_what_is_predicted(self, model):
        heard = model.heard(hidden_states(6))
        free, emotion, _ = model.conditioned(heard, {}, {})
        predicted = {name: adapter.predict(heard)[0] for name, adapter in model.adapters.items()}
        same, same_emotion, _ = model.conditioned(heard, predicted, {})
        assert torch.equal(free, same)
        assert torch.equal(emotion, same_emotion)
        for name in ("angles", "location", "scale"):
            turned, unchanged, _ = model.conditioned(heard, {name: predicted[name] + 1}, {})
            assert (turned - free).abs().mean() > 1e-3
            assert torch.equal(unchanged, emotion)
        still, other, _ = model.conditioned(heard, {"emotion": predicted["emotion"] + 1}, {})
        assert torch.equal(still, free)
        assert (other - emotion).abs().mean() > 1e-3

    def test_in_two_parts_it_is_the_same(self, model):
        heard = model.heard(hidden_states(9))
        whole, emotion, _ = model.conditioned(heard, {}, {})
        first, first_emotion, memory = model.conditioned(heard[:, :4], {}, {})
        second, second_emotion, _ = model.conditioned(heard[:, 4:], {}, memory)
        torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(
            torch.cat([first_emotion, second_emotion], 1), emotion, atol=1e-9, rtol=1e-9
        )

    def test_an_adapter_does_not_hear_the_future(self):
        adapter = with_made_weights(VarianceAdapter(3, 8, 5))
        x = made(1, 9, 8)
        changed = torch.cat([x[:, :5], x[:, 5:] + 1], dim=1)
        assert torch.equal(adapter.predict(x)[0][:, :5], adapter.predict(changed)[0][:, :5])
        assert not torch.equal(adapter.predict(x)[0][:, 5:], adapter.predict(changed)[0][:, 5:])

    def test_named_emotions_add_up_from_neutral(self, model):
        weights = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0], [0, 0.5, 0, 0.75, 0, 0, 0]])
        rows = model.emotion_rows(weights)
        torch.testing.assert_close(rows[0], model.neutral_emotion)
        expected = (
            model.neutral_emotion + 0.5 * model.affective_vectors[1] + 0.75 * model.affective_vectors[3]
        )
        torch.testing.assert_close(rows[1], expected)
        base = made(model.parameters_used.emotion_size, seed=9).double()
        torch.testing.assert_close(model.emotion_rows(weights, base) - base, rows - model.neutral_emotion)


def test_scores_and_units_are_each_other_backwards():
    model = takin_ada()
    motion = made(2, 5, 58).double()
    torch.testing.assert_close(model.denormalise(model.normalise(motion)), motion)
    torch.testing.assert_close(model.normalise(model.motion_mean + model.motion_std), torch.ones(58).double())


def test_padding_changes_no_frame_that_is_heard():
    model = takin_ada()
    hidden = hidden_states(9)
    valid = torch.arange(9)[None] < 6
    garbage = hidden.clone()
    garbage[:, :, 12:] = 100.0
    heard = model.heard(garbage, valid)
    torch.testing.assert_close(heard[:, :6], model.heard(hidden[:, :, :12]), atol=1e-9, rtol=1e-9)


def test_a_frame_hears_its_own_two_steps_and_the_one_before():
    model = takin_ada(replace(SMALL, encoder=ConformerParameters(width=16, blocks=1, heads=2, kernel=1)))
    hidden = hidden_states(6)
    base = model.at_frames(hidden)
    for step in range(12):
        changed = hidden.clone()
        changed[:, :, step] += 1
        frames = (model.at_frames(changed) - base).abs().sum(dim=(0, 2)).nonzero().flatten().tolist()
        assert frames == sorted({step // 2, min(5, (step + 1) // 2)})


def test_lips_are_told_by_a_model_that_was_made_so():
    assert takin_ada().closure_logits(takin_ada().heard(hidden_states(4))).shape == (1, 4)
    assert not hasattr(takin_ada(SMALL_KEYPOINTS), "closure")


def test_parameters_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMALL.window = 3
