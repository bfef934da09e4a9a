"""Gates as text: over time, and several settings."""

import numpy as np
import pytest
from talking_portrait.core_models.video_diffusion.gate_keyframes import (
    chosen_gate,
    gate_from_keyframes,
    gates_of_lines,
    intensities_of_lines,
)


def test_key_frames_in_any_order_with_even_passages():
    gate = gate_from_keyframes("2: 0\n0: 1")
    np.testing.assert_allclose(gate.on_frames(5, 2.0), [1, 0.75, 0.5, 0.25, 0])


def test_outside_the_key_frames_it_is_held():
    np.testing.assert_allclose(gate_from_keyframes("1: 0.5").on_frames(3, 1.0), 0.5)


def test_a_text_counts_before_the_constant():
    assert chosen_gate(0.25).values.tolist() == [0.25]
    assert chosen_gate(0.25, " \n").values.tolist() == [0.25]
    assert chosen_gate(0.25, "0: 1").values.tolist() == [1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no key frames"),
        ("1", "cannot read the key frame '1'.*write 'seconds: gate'"),
        ("x: 1", "cannot read the key frame"),
        ("-1: 1", "cannot read the key frame"),
        ("0: open", "'open' .* is not a number"),
        ("0: 1.5", "is 1.5, expected 0 to 1"),
        ("0: nan", "expected 0 to 1"),
        ("0: 1, 0: 0", "two key frames at 0 s"),
    ],
)
def test_bad_texts(text, message):
    with pytest.raises(ValueError, match=message):
        gate_from_keyframes(text)


def test_lines_are_settings():
    assert gates_of_lines("1 0\n\n0.5, 1\n") == (
        [1.0, 0.5],
        [0.0, 1.0],
        ["audio 1, motion 0", "audio 0.5, motion 1"],
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "there are no gates"),
        ("1", "'1'.*on a line"),
        ("1 2", "is 2, expected"),
        ("a b", "not a number"),
    ],
)
def test_bad_lines(text, message):
    with pytest.raises(ValueError, match=message):
        gates_of_lines(text)


def test_lines_are_intensities_of_both_or_of_each():
    assert intensities_of_lines("0.1\n\n 1 \n0.8, 0.3\n") == (
        [(0.1, 0.1), (1.0, 1.0), (0.8, 0.3)],
        ["intensity 0.1", "intensity 1", "face 0.8, body 0.3"],
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n", "there are no intensities: write each clip's"),
        ("0.1 0.2 0.3", "cannot read the intensities '0.1 0.2 0.3'"),
        ("1.5", "the intensity in '1.5' is 1.5, expected 0 to 1"),
        ("nan", "expected 0 to 1"),
        ("high", "the intensity 'high' in 'high' is not a number"),
    ],
)
def test_bad_intensities(text, message):
    with pytest.raises(ValueError, match=message):
        intensities_of_lines(text)
