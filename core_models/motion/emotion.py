"""Emotions over time: read from a line of text, and joined one after the other."""

from __future__ import annotations

import numpy as np

from ..types import EMOTION_NAMES, STRONGEST_EMOTION, Emotion, emotion_row
from .keyframe_text import keyframe_time, ordered_keyframes

STRONGEST = STRONGEST_EMOTION

_KEYFRAME_HELP = (
    "write 'seconds: emotion strength' with commas between, such as '0: neutral, 1.5: happy 0.8, "
    "4: sad 0.6 + angry 0.3'"
)


def emotion_from_keyframes(text: str) -> Emotion:
    """Return the emotion over time that a text describes, such as "0: neutral, 1.5: happy 0.8".

    Keyframes are separated by commas, semicolons or new lines and may come in any order. Each is the time in
    seconds, a colon, and one or more emotions joined by "+", each with a strength of 0..2 (1 when left out).
    Between keyframes the emotion passes smoothly from one to the next.
    Raises ValueError for a text without keyframes, a keyframe of another form, an unknown emotion, a
    strength outside 0..2, or two keyframes at one time.
    """
    keyframes = ordered_keyframes(text, _keyframe, _KEYFRAME_HELP, "join their emotions with '+'")
    times = [time for time, _ in keyframes]
    return _emotion(np.array(times), np.stack([scaled for _, scaled in keyframes]))


def _keyframe(text: str) -> tuple[float, np.ndarray]:
    """Return one keyframe's time in seconds and its weights times strength, (7,)."""
    time, colon, emotions = text.partition(":")
    seconds = keyframe_time(time)
    if not colon or seconds is None:
        raise ValueError(f"cannot read the keyframe {text!r}: {_KEYFRAME_HELP}")
    scaled = np.zeros(len(EMOTION_NAMES), np.float32)
    for term in emotions.split("+"):
        name, strength = _term(term, text)
        scaled += strength * emotion_row({name: 1.0})
    if scaled.sum() > STRONGEST:
        raise ValueError(f"the strengths in {text!r} add up to {scaled.sum():g}, at most {STRONGEST:g}")
    return seconds, scaled


def _term(term: str, keyframe: str) -> tuple[str, float]:
    words = term.split()
    if len(words) not in (1, 2):
        raise ValueError(f"cannot read the emotion {term.strip()!r} in {keyframe!r}: {_KEYFRAME_HELP}")
    try:
        strength = float(words[1]) if len(words) == 2 else 1.0
    except ValueError as error:
        raise ValueError(f"the strength {words[1]!r} in {keyframe!r} is not a number") from error
    if not 0 <= strength <= STRONGEST:
        raise ValueError(f"the strength in {keyframe!r} is {strength:g}, expected 0 to {STRONGEST:g}")
    return words[0].lower(), strength


def _emotion(times: np.ndarray, scaled: np.ndarray) -> Emotion:
    """Return the emotion whose weights times strength are `scaled`, (K, 7), at `times`, (K,) seconds."""
    strengths = scaled.sum(axis=1)
    neutral = emotion_row({"neutral": 1.0})
    weights = np.where(strengths[:, None] > 0, scaled / np.maximum(strengths, 1e-12)[:, None], neutral[None])
    return Emotion(weights=weights, strengths=strengths, times=times)


def emotion_followed_by(
    previous: Emotion, following: Emotion, time: float, transition: float = 0.5
) -> Emotion:
    """Return `previous` until `time` seconds, then `following`, whose own times count from there.

    transition: seconds the change takes, > 0; it ends at `time` + `transition`.
    Raises ValueError for a negative time or a transition that is not positive.
    """
    if not (np.isfinite(time) and time >= 0):
        raise ValueError(f"the time is {time} s, expected 0 or more")
    if not (np.isfinite(transition) and transition > 0):
        raise ValueError(f"the transition takes {transition} s, expected more than 0")
    before = previous.times[previous.times < time]
    after = following.times[following.times > 0] + time + transition
    joint = np.array([time, time + transition])
    times = np.concatenate([before, joint, after])
    scaled = [
        previous.at(np.append(before, time)),
        following.at(np.append(0.0, after - time - transition)),
    ]
    return _emotion(times, np.concatenate(scaled))


def emotions_of_lines(text: str) -> tuple[list[Emotion], list[str]]:
    """Return a constant emotion for each line of a text, such as "happy 0.6 + surprised 0.4", and the lines.

    Empty lines are left out. Raises ValueError for a text without lines, and as `emotion_from_keyframes` does.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError(
            "there are no emotions: write one per line, such as 'happy' or 'happy 0.6 + surprised 0.4'"
        )
    return [emotion_from_keyframes(f"0: {line}") for line in lines], lines
