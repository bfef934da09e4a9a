"""From a picture, an identity and controls to a clip: lengths, rates, gates, seeds, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from talking_portrait.core_models.types import AudioEmbedding
from talking_portrait.core_models.video_diffusion.actalker.loading import KEPT_IN_FLOAT32, in_precision
from talking_portrait.core_models.video_diffusion.actalker.performance import (
    ACTalkerOptions,
    acting_portrait,
    clip_frames,
    heard_by_frames,
    moved_on_frames,
    sampling_options,
)
from talking_portrait.core_models.video_diffusion.actalker.prepared_picture import PreparedPicture
from talking_portrait.core_models.video_types import Gate, Identity, MaskedControl, MotionEmbedding

from .actalker_models import SMALL_MODEL, new_model

FACE = np.zeros((64, 64), np.float32)
FACE[4:60, 8:56] = 1
MOUTH = np.zeros_like(FACE)
MOUTH[36:52, 20:44] = 1
PICTURE = PreparedPicture(np.zeros((64, 64, 3), np.uint8), FACE, MOUTH, FACE - MOUTH)
IDENTITY = Identity(np.linspace(-1, 1, 8), np.zeros((4, 4, 3)), "actalker_pocket")
QUICK = ACTalkerOptions(steps=2, window=4)


def sound(seconds=0.3, seed=0, encoder="pocket_listener", channels=3):
    generator = np.random.default_rng(seed)
    rows = max(round(50 * seconds), 1)
    features = torch.from_numpy(generator.standard_normal((rows, 2, channels)).astype(np.float32))
    return AudioEmbedding(features, 50.0, seconds, encoder)


def motion(frames=6, fps=25.0, seed=1, encoder="blendshapes", numbers=64):
    return MotionEmbedding(np.random.default_rng(seed).standard_normal((frames, numbers)), fps, encoder)


def control(audio=None, moved=None, **changed):
    return MaskedControl(FACE, MOUTH, FACE - MOUTH, audio, moved, **changed)


def made(steering, options=QUICK, model=None, picture=PICTURE, **further):
    portrait = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(5))
    return acting_portrait(
        model or new_model(), portrait, 1.0, picture, IDENTITY, steering, options, **further
    )


@pytest.mark.parametrize(("seconds", "frames"), [(0.01, 1), (0.08, 1), (0.081, 2), (0.96, 12), (40.0, 500)])
def test_a_clip_covers_the_sound_and_cuts_nothing(seconds, frames):
    assert clip_frames(control(sound(seconds)), 12.5) == frames


def test_the_sound_gives_the_length_and_without_it_the_motion():
    assert clip_frames(control(sound(0.8), motion(100)), 12.5) == 10
    assert clip_frames(control(moved=motion(100)), 12.5) == 50
    closed = control(sound(0.8), motion(100), audio_gate=Gate.constant(0.0))
    assert clip_frames(closed, 12.5) == 50
    assert clip_frames(control(sound(0.8)), 12.5, 3) == 3
    with pytest.raises(ValueError, match="frames is 0"):
        clip_frames(control(sound(0.8)), 12.5, 0)


def test_a_frame_hears_the_rows_around_its_start_and_zeros_outside():
    features = torch.arange(1.0, 21).view(20, 1, 1).expand(20, 2, 3)
    audio = AudioEmbedding(features, 50.0, 0.4, "pocket_listener")
    heard = heard_by_frames(audio, SMALL_MODEL, 6)[:, :, 0, 0]
    assert heard.shape == (6, 4)
    assert heard[0].tolist() == [0, 1, 2, 3]  # one row before the start
    assert heard[2].tolist() == [8, 9, 10, 11]  # 0.16 s is row 8, counted from 0
    assert heard[5].tolist() == [20, 0, 0, 0]


def test_motion_comes_at_the_models_rate_and_goes_back_and_forth():
    track = MotionEmbedding(np.repeat(np.arange(8.0)[:, None], 64, 1), 25.0, "blendshapes")
    found = moved_on_frames(track, SMALL_MODEL, 9)[:, 0]
    assert found.tolist() == [0, 2, 4, 6, 4, 2, 0, 2, 4]
    slow = MotionEmbedding(np.repeat(np.arange(4.0)[:, None], 64, 1), 6.25, "blendshapes")
    assert moved_on_frames(slow, SMALL_MODEL, 5)[:, 0].tolist() == [0, 0.5, 1, 1.5, 2]


@pytest.mark.parametrize(("rows", "fps"), [(51, 25.0), (3, 25.0), (38, 30.0), (100, 29.97), (1, 60.0)])
def test_motion_goes_back_only_after_its_end(rows, fps):
    track = MotionEmbedding(np.repeat(np.arange(float(rows))[:, None], 64, 1), fps, "blendshapes")
    frames = clip_frames(control(moved=track), 12.5)
    found = moved_on_frames(track, SMALL_MODEL, frames + 1)[:, 0]
    going = found[:frames]
    places = torch.arange(frames) / 12.5 * fps
    torch.testing.assert_close(going, places.clamp(max=rows - 1), atol=0.06, rtol=0)  # 29.97 is 30000 / 1001
    assert (going.diff() >= 0).all()
    assert found[frames] <= going[-1]


def test_rotation_goes_the_shorter_way_round():
    reader = replace(SMALL_MODEL, motion_kind="expression_and_pose")
    rows = np.zeros((3, 64))
    rows[:, 58:61] = [[170, -90, 0], [-170, 90, 10], [-150, -90, 20]]
    rows[:, [0, 61]] = [[170, 0], [-170, 1], [-150, 2]]
    found = moved_on_frames(MotionEmbedding(rows, 6.25, "expression_and_pose"), reader, 5)
    assert found[:, 58].tolist() == pytest.approx([170, 180, -170, -160, -150])
    assert found[:, 60].tolist() == pytest.approx([0, 5, 10, 15, 20])
    assert found[:, 0].tolist() == pytest.approx([170, 0, -170, -160, -150])  # an expression has no turns
    evenly = moved_on_frames(MotionEmbedding(rows, 6.25, "blendshapes"), SMALL_MODEL, 5)
    assert evenly[:, 58].tolist() == pytest.approx([170, 0, -170, -160, -150])


def test_one_frame_of_motion_is_held():
    assert torch.equal(
        moved_on_frames(motion(1), SMALL_MODEL, 3), moved_on_frames(motion(1), SMALL_MODEL, 1).expand(3, -1)
    )


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        (
            control(sound(encoder="whisper")),
            "listens to pocket_listener .* choose pocket_listener in Audio Embedding",
        ),
        (control(sound(channels=5)), r"but the audio embedding is pocket_listener \(2, 5\)"),
        (control(moved=motion(encoder="expression_and_pose")), "takes motion as blendshapes"),
        (control(moved=motion(numbers=10)), r"the embedding is blendshapes \(10\)"),
    ],
)
def test_signals_of_another_model_are_refused_with_advice(steering, message):
    with pytest.raises(ValueError, match=message):
        made(steering)


def test_the_latents_are_of_the_clips_frames_and_of_the_seed():
    steering = control(sound(), motion())
    first, again = made(steering), made(steering)
    other = made(steering, replace(QUICK, seed=1))
    assert first.shape == (4, 4, 16, 16)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_fewer_streams_at_once_change_nothing():
    steering = control(sound(), motion(), audio_guidance=2.0, motion_guidance=1.5)
    together, alone = made(steering), made(steering, replace(QUICK, streams_at_once=1))
    assert torch.allclose(together, alone, atol=1e-3 * together.abs().max())


@pytest.mark.parametrize("closed", ["audio", "motion"])
def test_a_closed_gate_shuts_its_signal_out(closed):
    gates = {f"{closed}_gate": Gate.constant(0.0)}
    one = made(control(sound(), motion(), **gates), replace(QUICK, frames=3))
    signals = (sound(seed=9), motion()) if closed == "audio" else (sound(), motion(seed=9))
    other = made(control(*signals, **gates), replace(QUICK, frames=3))
    assert torch.equal(one, other)


def test_a_closed_gate_is_as_good_as_no_signal():
    with_closed = made(control(sound(), motion(), motion_gate=Gate.constant(0.0)), replace(QUICK, frames=3))
    assert torch.allclose(with_closed, made(control(sound()), replace(QUICK, frames=3)), atol=1e-5)


def test_the_further_a_gate_opens_the_further_its_clip_is_from_the_closed_one():
    steering = control(sound(), motion(), motion_gate=Gate.constant(0.0))
    results = [
        made(replace(steering, motion_gate=Gate.constant(value)), replace(QUICK, frames=3))
        for value in (0.0, 0.25, 0.5, 1.0)
    ]
    distances = [float((result - results[0]).norm()) for result in results]
    assert distances == sorted(distances)
    assert distances[1] > 0


def test_sound_is_not_heard_through_a_shut_gate():
    """Open in frames 0 and 1, shut in 2 and 3, which alone hear rows 7 and on."""
    shut = Gate(np.array([1.0, 0.0]), np.array([0.08, 0.16]))
    heard = sound(0.32)
    features = heard.features.clone()
    features[7:] = sound(0.32, seed=9).features[7:]
    other = replace(heard, features=features)
    one, same = (made(control(each, motion(), audio_gate=shut)) for each in (heard, other))
    assert torch.equal(one, same)
    opened, changed = (made(control(each, motion())) for each in (heard, other))
    assert not torch.equal(opened, changed)
    features[:7] = sound(0.32, seed=9).features[:7]
    assert not torch.equal(made(control(replace(heard, features=features), motion(), audio_gate=shut)), one)


def test_cancel_ends_the_work_within_a_window():
    class Cancelled(Exception):
        pass

    seen = []

    def progress(done, total):
        seen.append((done, total))
        raise Cancelled

    with pytest.raises(Cancelled):
        made(control(sound(), motion()), progress=progress)
    assert seen == [(1, 4)]  # two windows in each of two steps


def test_previews_are_of_the_clip():
    shown = []
    result = made(control(sound()), preview=shown.append)
    assert [tuple(latents.shape) for latents in shown] == [tuple(result.shape)] * 2
    assert torch.allclose(shown[-1], result, atol=1e-3)


def test_an_overflow_is_named_with_what_to_do():
    model = new_model()
    model.unet.conv_out.weight.data.mul_(float("inf"))
    with pytest.raises(
        FloatingPointError, match="float32 gave infinity or NaN in step 1: choose bfloat16 or float32"
    ):
        made(control(sound()), model=model)


def test_what_is_not_chosen_is_the_models_own():
    own = sampling_options(SMALL_MODEL, ACTalkerOptions(), control(sound()))
    assert (own.steps, own.window, own.shift) == (3, 5, 2)
    assert own.guidance == SMALL_MODEL.defaults.guidance
    chosen = sampling_options(
        SMALL_MODEL, ACTalkerOptions(steps=7, identity_guidance=1.5), control(sound(), audio_guidance=4.0)
    )
    assert (chosen.steps, chosen.guidance.identity, chosen.guidance.audio) == (7, 1.5, 4.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"audio_gate": Gate.constant(0.0)}, "gates of all that is connected are closed"),
        ({"audio": None}, "neither sound nor motion"),
        ({"mouth": MOUTH[:32]}, r"the mouth mask is \(32, 64\), the face mask \(64, 64\)"),
        ({"face": FACE * 2}, "face mask holds values outside 0..1"),
        ({"motion_mask": np.full_like(FACE, np.nan)}, "motion mask holds values outside 0..1, or NaN"),
        ({"regions": "some"}, "expected one of regions, full"),
        ({"audio_guidance": float("inf")}, "audio_guidance is inf"),
    ],
)
def test_bad_controls_are_refused(changed, message):
    parts = {"face": FACE, "mouth": MOUTH, "motion_mask": FACE - MOUTH, "audio": sound()} | changed
    with pytest.raises(ValueError, match=message):
        MaskedControl(**parts)


@pytest.mark.parametrize(
    ("values", "times", "message"),
    [
        ([0.5, 1.2], [0, 1], "must be in 0..1"),
        ([0.5, 1.0], [1, 1], "times of a gate must increase"),
        ([0.5], [0, 1], "expected"),
        ([], [], "expected"),
    ],
)
def test_bad_gates_are_refused(values, times, message):
    with pytest.raises(ValueError, match=message):
        Gate(np.array(values), np.array(times))


def masked(face, mouth, moving):
    return PreparedPicture(PICTURE.picture, face, mouth, moving)


EMPTY, WHOLE = np.zeros_like(FACE), np.ones_like(FACE)


def deaf_over_time():
    """A model whose temporal attention, which has no masks, hears nothing and sees no motion."""
    model = new_model()
    for module in model.unet.modules():
        if hasattr(module, "temporal_transformer_blocks"):
            for projection in module.temporal_transformer_blocks[0].attn2.processor.to_v_ip:
                projection.weight.data.zero_()
    return model


def test_empty_masks_shut_the_signals_out_of_all_but_the_temporal_attention():
    deaf, picture = deaf_over_time(), masked(EMPTY, EMPTY, EMPTY)
    steered = [control(sound(seed=seed), motion(seed=seed)) for seed in (1, 2)]
    one, other = (made(each, model=deaf, picture=picture) for each in steered)
    assert torch.isfinite(one).all()
    assert torch.equal(one, other)
    one, other = (made(each, picture=picture) for each in steered)
    assert not torch.equal(one, other)


def test_full_masks_let_both_signals_in_everywhere():
    steering, picture = control(sound(), motion()), masked(WHOLE, WHOLE, WHOLE)
    found = made(steering, picture=picture)
    assert torch.equal(found, made(replace(steering, regions="full"), picture=masked(WHOLE, MOUTH, EMPTY)))
    deaf = deaf_over_time()
    for other in (control(sound(seed=9), motion()), control(sound(), motion(seed=9))):
        one, changed = (made(each, model=deaf, picture=picture) for each in (steering, other))
        assert not torch.equal(one, changed)


SPECK = np.zeros_like(FACE)
SPECK[5, 5] = 1


@pytest.mark.parametrize(
    ("picture", "gates", "told"),
    [
        (PICTURE, {}, []),
        (masked(FACE, EMPTY, FACE - MOUTH), {}, ["the mouth mask is empty"]),
        (
            masked(FACE, SPECK, EMPTY),
            {},
            ["the mouth mask covers no whole token", "the motion mask is empty"],
        ),
        (masked(EMPTY, MOUTH, FACE - MOUTH), {}, []),  # used by none: both gates are open
        (masked(EMPTY, EMPTY, EMPTY), {"motion_gate": Gate.constant(0.0)}, ["the face mask is empty"]),
        (masked(EMPTY, MOUTH, MOUTH), {"motion_gate": Gate.constant(0.5)}, ["the face mask is empty"]),
        (masked(FACE, EMPTY, EMPTY), {"regions": "full"}, []),
    ],
)
def test_a_mask_in_which_nothing_is_steered_is_told_once_a_clip(picture, gates, told, caplog):
    made(control(sound(), motion(), **gates), picture=picture)
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(found) == len(told)
    for message, begin in zip(found, told, strict=True):
        assert message.startswith(begin)
        assert "draw it larger" in message


def test_a_model_in_half_precision_makes_a_clip_and_keeps_the_scan_in_float32():
    model = new_model()
    model.load_state_dict(in_precision(model.state_dict(), torch.float16), assign=True)
    found = made(control(sound(), motion()), model=model)
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()
    kinds = {name: value.dtype for name, value in model.state_dict().items()}
    scans = {name for name in kinds if name.endswith(KEPT_IN_FLOAT32)}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == scans
    assert scans


def test_a_check_ends_the_work_within_a_block_and_leaves_nothing_behind():
    class Cancelled(Exception):
        pass

    calls, windows, model = [], [], new_model()

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        made(control(sound()), model=model, progress=lambda *done: windows.append(done), check=check)
    assert (len(calls), windows) == (3, [])
    made(control(sound()), model=model)
    assert len(calls) == 3


def test_a_clip_of_500_frames_has_them_all():
    """Forty seconds of sound, at the least size, in one step of one stream: only the lengths are asked for."""
    steering = control(sound(40.0), motion(3), audio_guidance=1.0, motion_guidance=1.0)
    options = ACTalkerOptions(steps=1, window=50, identity_guidance=1.0)
    small = PreparedPicture(*(part[::4, ::4] for part in (PICTURE.picture, FACE, MOUTH, FACE - MOUTH)))
    found = acting_portrait(new_model(), torch.zeros(4, 4, 4), 1.0, small, IDENTITY, steering, options)
    assert found.shape == (500, 4, 4, 4)
    assert torch.isfinite(found).all()
