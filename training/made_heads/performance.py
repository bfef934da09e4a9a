"""What made heads do: speech with a known mouth, or movements at random that need no synthesiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...core_models.audio.decode import Sound
from ...core_models.motion.blinking import add_blinks, add_head_drift, add_saccades
from ...core_models.motion.emotion_expression import sided, with_emotion
from ...core_models.types import (
    BLENDSHAPE_INDEX,
    BLENDSHAPE_NAMES,
    BLENDSHAPES,
    EMOTION_NAMES,
    Emotion,
    FaceMotion,
)
from ..performance import (
    BROW_SHARES,
    FPS,
    emotion_head_gains,
    emotion_jaw_gains,
    emotion_rest,
    mouth_to_blendshapes,
)
from ..pocket_data import ESPEAK_LANGUAGES, ESPEAK_VARIANTS, SILENT_LEAD, delayed, espeak_voice, record
from ..speech_synthesis import SAMPLE_RATE, EspeakSynthesiser, Utterance
from ..speech_texts import sentence
from .babble import babble

SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
NEUTRAL_SHARE = 0.25
MIXED_SHARE = 0.25
"""Of performances with an emotion, how many mix two."""
STRENGTH_RANGE = (0.4, 1.2)
LOUDNESS_RANGE = (0.25, 0.9)
"""Peak of a performance's sound."""

WANDERING_SHAPES: dict[str, float] = {
    **{"jawOpen": 0.75, "mouthClose": 0.0, "mouthPucker": 0.8, "mouthFunnel": 0.6, "mouthSmile": 0.7},
    **{"mouthFrown": 0.6, "mouthStretch": 0.5, "mouthLowerDown": 0.5, "mouthUpperUp": 0.4},
    **{"mouthPress": 0.5, "mouthRollLower": 0.5, "mouthRollUpper": 0.4, "mouthShrugLower": 0.5},
    **{"mouthDimple": 0.4, "browInnerUp": 0.8, "browOuterUp": 0.8, "browDown": 0.8, "noseSneer": 0.5},
    **{"cheekSquint": 0.5, "eyeSquint": 0.5, "eyeWide": 0.6, "cheekPuff": 0.4},
}
"""The largest value of each coefficient in movements at random."""
PRESSING_SHAPES = ("mouthPress", "mouthRollLower", "mouthRollUpper")
PRESSED_APART = 0.15
"""How much of what presses the lips together is left where they are not to meet."""
WANDERING_HERTZ = 3.0
WANDERING_DEGREES = (7.0, 10.0, 6.0)
WANDERING_GAZE = (0.3, 0.2)


@dataclass(frozen=True)
class MadePerformance:
    """A sound and the face that goes with it.

    sound: mono, 16 kHz, exactly as long as the motion. motion: blendshapes at 25 fps. emotion: what it shows.
    Raises ValueError when the lengths differ.
    """

    sound: Sound
    motion: FaceMotion
    emotion: Emotion

    def __post_init__(self) -> None:
        expected = self.motion.frame_count * SAMPLES_PER_FRAME
        if self.sound.sample_count != expected:
            raise ValueError(
                f"the sound has {self.sound.sample_count} samples, but {self.motion.frame_count} frames last {expected}"
            )


def frames_of_seconds(seconds: float) -> int:
    """Return how many frames last `seconds`. Raises ValueError below one frame."""
    frames = round(seconds * FPS) if np.isfinite(seconds) else 0
    if frames < 1:
        raise ValueError(f"seconds is {seconds}, expected at least {1 / FPS:g} (one frame at {FPS} fps)")
    return frames


def drawn_emotion(rng: np.random.Generator) -> Emotion:
    """Return a constant emotion: a quarter neutral, else one of the other six or a mix of two, strength 0.4..1.2."""
    if rng.random() < NEUTRAL_SHARE:
        return Emotion.mixed({"neutral": 1.0})
    first, second = rng.choice(EMOTION_NAMES[1:], size=2, replace=False)
    share = rng.uniform(0.5, 1.0) if rng.random() < MIXED_SHARE else 1.0
    return Emotion.mixed({str(first): share, str(second): 1 - share}, rng.uniform(*STRENGTH_RANGE))


def made_performances(
    count: int, seed: int, seconds: float, emotion: Emotion | None = None
) -> Iterator[MadePerformance]:
    """Yield `count` performances of espeak-ng speech, `seconds` long, with a mouth by rule as the pocket model's truth.

    The same call gives the same performances in every fresh process, and a larger count only adds to them. espeak-ng
    keeps a state of its own between sentences: after other speech the words, the voice and the emotion are the same
    again, but its noise and lengths differ a little. emotion: of all; None draws one
    for each. Raises SynthesiserMissingError where espeak-ng is missing, ValueError for a length below one frame.
    """
    frames = frames_of_seconds(seconds)
    synthesiser = EspeakSynthesiser()
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        utterance = _long_utterance(synthesiser, frames, rng)
        yield spoken_performance(utterance, frames, emotion or drawn_emotion(rng), rng)


def _long_utterance(synthesiser: EspeakSynthesiser, frames: int, rng: np.random.Generator) -> Utterance:
    """Return sentences of one voice, after a short silence, at least `frames` long."""
    language = str(rng.choice(ESPEAK_LANGUAGES))
    voice = espeak_voice(language, str(rng.choice(ESPEAK_VARIANTS)), rng)
    lead = rng.uniform(0, SILENT_LEAD)
    sounds, phones, end = [], [], 0.0
    while end * FPS < frames + 1:
        spoken = delayed(synthesiser.speak(sentence(language[:2], rng), voice), lead)
        sounds.append(spoken.waveform)
        phones += [replace(phone, start=phone.start + end, end=phone.end + end) for phone in spoken.phones]
        end += len(spoken.waveform) / SAMPLE_RATE
    return Utterance(np.concatenate(sounds), tuple(phones), f"espeak:{voice.name}")


def spoken_performance(
    utterance: Utterance, frames: int, emotion: Emotion, rng: np.random.Generator
) -> MadePerformance:
    """Return the first `frames` of an utterance as a performance: mouth, brows, head, blinks, gaze and emotion."""
    recording = record(utterance, rng)
    times = (np.arange(frames) + 0.5) / FPS
    felt = emotion.at(times)
    expression = recording.mouth[:frames].astype(np.float32) @ mouth_to_blendshapes()
    closing = [BLENDSHAPE_INDEX["jawOpen"], BLENDSHAPE_INDEX["mouthClose"]]  # both, so that lips still meet
    expression[:, closing] *= (1 + felt @ emotion_jaw_gains())[:, None]
    for name, share in BROW_SHARES:
        expression[:, BLENDSHAPE_INDEX[name]] += share * recording.brows[0, :frames].astype(np.float32)
    pose = recording.poses[0, :frames].astype(np.float32) * (1 + felt @ emotion_head_gains())[:, None]
    pose = pose + felt @ emotion_rest()[:, len(BLENDSHAPE_NAMES) :]
    motion = FaceMotion(
        BLENDSHAPES, FPS, np.clip(expression, 0, 1), pose[:, :3], pose[:, 3:], np.ones(frames)
    )
    motion = add_saccades(add_blinks(with_emotion(motion, emotion), rng), rng)
    waveform = utterance.waveform[: frames * SAMPLES_PER_FRAME]
    peak = max(float(np.abs(waveform).max()), 1e-4)
    return MadePerformance(_sound(waveform * (rng.uniform(*LOUDNESS_RANGE) / peak)), motion, emotion)


def silent_performance(frames: int, seed: int, emotion: Emotion | None = None) -> MadePerformance:
    """Return a silent face that blinks, looks about, moves its head and shows an emotion; needs no synthesiser.

    emotion: None draws one. Raises ValueError for less than one frame.
    """
    rng = _checked_rng(frames, seed)
    emotion = emotion or drawn_emotion(rng)
    motion = with_emotion(FaceMotion.at_rest(frames, FPS), emotion)
    motion = add_head_drift(add_saccades(add_blinks(motion, rng), rng), rng)
    return MadePerformance(_sound(np.zeros(frames * SAMPLES_PER_FRAME)), motion, emotion)


def wandering_performance(frames: int, seed: int) -> MadePerformance:
    """Return a face that moves widely at random, with a babbling sound that follows its jaw and lips.

    Jaw, lips, cheeks, brows, lids, gaze and head each wander on their own, so that a few clips show most of what the
    renderer can draw. The emotion is called neutral. Needs no synthesiser. Raises ValueError for less than one frame.
    """
    rng = _checked_rng(frames, seed)
    expression = np.zeros((frames, len(BLENDSHAPE_NAMES)), np.float32)
    for name, largest in WANDERING_SHAPES.items():
        sides = [BLENDSHAPE_INDEX[full] for full in sided(name)]
        expression[:, sides] = largest * _wandering(frames, rng)[:, None]
    pressing = [BLENDSHAPE_INDEX[full] for name in PRESSING_SHAPES for full in sided(name)]
    jaw, close = BLENDSHAPE_INDEX["jawOpen"], BLENDSHAPE_INDEX["mouthClose"]
    sealed = _wandering(frames, rng) > 0.6
    expression[:, close] = np.where(sealed, 0.5 * expression[:, jaw] + 0.05, 0)
    expression[:, jaw] *= np.where(sealed, 0.5, 1)
    expression[:, pressing] *= np.where(sealed, 1, PRESSED_APART)[:, None]
    rotation = np.stack([_swing(frames, rng) * degrees for degrees in WANDERING_DEGREES], axis=1)
    shift = np.stack([0.06 * _swing(frames, rng), 0.05 * _swing(frames, rng), np.zeros(frames)], axis=1)
    size = np.exp(0.04 * _swing(frames, rng))
    motion = FaceMotion(BLENDSHAPES, FPS, np.clip(expression, 0, 1), rotation, shift, size)
    motion = add_saccades(add_blinks(motion, rng, 25.0), rng, 60.0, WANDERING_GAZE)
    return MadePerformance(_sound(babble(motion.expression, rng)), motion, Emotion.mixed({"neutral": 1.0}))


def _checked_rng(frames: int, seed: int) -> np.random.Generator:
    if frames < 1:
        raise ValueError(f"frames is {frames}, expected at least 1")
    return np.random.default_rng(seed)


def _swing(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return (N,) about -1.5..1.5: a sum of slow waves whose spread is 1 over a long time."""
    seconds = (np.arange(frames) + 0.5) / FPS
    hertz, phases = rng.uniform(0.1, 0.9, 5), rng.uniform(0, 2 * np.pi, 5)
    return np.sin(2 * np.pi * hertz * seconds[:, None] + phases).sum(axis=1) * np.sqrt(2 / 5)


def _wandering(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return (N,) in 0..1: at rest about half of the time, else rising and falling up to a few times a second."""
    seconds = (np.arange(frames) + 0.5) / FPS
    hertz, phases = rng.uniform(0.2, WANDERING_HERTZ, 4), rng.uniform(0, 2 * np.pi, 4)
    waves = np.sin(2 * np.pi * hertz * seconds[:, None] + phases).sum(axis=1) / 2.2
    return np.clip(waves, 0, 1)


def _sound(waveform: np.ndarray) -> Sound:
    return Sound(np.asarray(waveform, np.float32)[None], SAMPLE_RATE)
