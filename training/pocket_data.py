"""Training data of the pocket model: made here, from synthesised speech; nothing is downloaded or kept in git.

A recording is 16 kHz speech turned to mel decibels, with the truth that belongs to it at 25 fps. Held out
of training, for `evaluation`: the espeak variants, languages and the flite voice named below.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core_models.audio.mel import MEL_RATE, level_gain, loudness_decibels, mel_decibels
from .mouth_curves import closure_frames, mouth_curves
from .performance import FPS, perform
from .speech_synthesis import (
    FESTIVAL_VOICES,
    SAMPLE_RATE,
    EspeakSynthesiser,
    EspeakVoice,
    Utterance,
    speak_with_festival,
    speak_with_flite,
)
from .speech_texts import sentence
from .visemes import PHONE_CLASS_INDEX, SILENCE, Phone

logger = logging.getLogger(__name__)

ESPEAK_LANGUAGES = (
    "en",
    "en-us",
    "de",
    "fr",
    "es",
    "ru",
    "pt",
    "sv",
    "en-gb-scotland",
    "es-419",
    "pt-br",
    "fr-be",
)
HELD_OUT_LANGUAGES = ("it", "pl")
ESPEAK_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "croak", "klatt", "klatt2", "klatt3"),
    *(
        "Andy",
        "Annie",
        "Gene",
        "Jacky",
        "Lee",
        "Mario",
        "Michael",
        "Mike",
        "steph2",
        "steph3",
        "shelby",
        "Tweaky",
    ),
    *(
        "aunty",
        "boris",
        "david",
        "edward",
        "linda",
        "rob",
        "steph",
        "travis",
        "belinda",
        "benjamin",
        "ed",
        "john",
    ),
)
HELD_OUT_VARIANTS = ("f5", "m5", "klatt4", "Alicia", "Diogo", "max", "Hugo")
"""File names of espeak-ng variants; a name it does not have would silently speak with the default voice."""
FLITE_VOICES = ("slt", "awb", "kal", "kal16")
HELD_OUT_FLITE_VOICE = "rms"
SILENT_LEAD = 0.4  # seconds of silence put before every utterance, so that clips begin at rest
PERFORMANCES = 3


@dataclass(frozen=True)
class Recording:
    """One utterance as the trainer reads it.

    mel_db: (4N, 80) float16, level-normalised decibels. mouth: (N, 10) float16 channels of visemes.py.
    phones: (2N,) uint8 classes at 50 Hz. closed: (N,) uint8, 1 in frames where p, b or m close the lips.
    poses: (P, N, 6) float16 and brows: (P, N) float16, alternative performances. voice: its label.
    """

    mel_db: np.ndarray
    mouth: np.ndarray
    phones: np.ndarray
    closed: np.ndarray
    poses: np.ndarray
    brows: np.ndarray
    voice: str


def delayed(utterance: Utterance, lead: float) -> Utterance:
    """Return the utterance with `lead` seconds of silence before it."""
    sound = np.concatenate([np.zeros(round(lead * SAMPLE_RATE), np.float32), utterance.waveform])
    moved = [Phone(p.symbol, p.start + lead, p.end + lead, p.bilabial_stop) for p in utterance.phones]
    return Utterance(sound, (Phone(SILENCE, 0.0, lead), *moved), utterance.voice)


def phone_labels(phones: tuple[Phone, ...], count: int, rate: float) -> np.ndarray:
    """Return (count,) uint8: the phone class at each step's centre."""
    times = (np.arange(count) + 0.5) / rate
    labels = np.full(count, PHONE_CLASS_INDEX[SILENCE], np.uint8)
    for phone in phones:
        labels[(times >= phone.start) & (times < phone.end)] = PHONE_CLASS_INDEX[phone.symbol]
    return labels


def frame_levels(mel_db: np.ndarray, frames: int) -> np.ndarray:
    """Return each video frame's level in dB relative to the clip's loud frames, (N,)."""
    level = loudness_decibels(mel_db)[: frames * 4].reshape(frames, 4).max(axis=1)
    return level - np.percentile(level, 95)


def record(utterance: Utterance, rng: np.random.Generator) -> Recording:
    """Return the recording of an utterance, whole video frames long."""
    samples_per_frame = SAMPLE_RATE // FPS
    frames = max(1, len(utterance.waveform) // samples_per_frame)
    mel_db = mel_decibels(utterance.waveform[: frames * samples_per_frame])
    level = frame_levels(mel_db, frames)
    mouth = mouth_curves(list(utterance.phones), level, FPS)
    closed = np.zeros(frames, np.uint8)
    closed[closure_frames(list(utterance.phones), FPS, frames)] = 1
    loud = np.clip((level + 40) / 40, 0, 1) * (utterance.voice != "silence")
    performances = [perform(loud, rng) for _ in range(PERFORMANCES)]
    return Recording(
        mel_db=(mel_db + level_gain(mel_db)).astype(np.float16),
        mouth=mouth.astype(np.float16),
        phones=phone_labels(utterance.phones, 2 * frames, MEL_RATE / 2),
        closed=closed,
        poses=np.stack([pose for pose, _ in performances]).astype(np.float16),
        brows=np.stack([brow for _, brow in performances]).astype(np.float16),
        voice=utterance.voice,
    )


def espeak_voice(language: str, variant: str, rng: np.random.Generator) -> EspeakVoice:
    """Return a voice with random rate, pitch and liveliness."""
    return EspeakVoice(
        name=f"{language}+{variant}",
        rate=int(rng.integers(110, 240)),
        pitch=int(rng.integers(15, 85)),
        pitch_range=int(rng.integers(20, 90)),
        gap=int(rng.integers(0, 3)),
    )


def espeak_utterances(count: int, rng: np.random.Generator) -> list[Utterance]:
    """Return training utterances of espeak-ng over languages and variants."""
    synthesiser = EspeakSynthesiser()
    utterances = []
    for _ in tqdm(range(count), desc="espeak-ng", leave=False):
        language = str(rng.choice(ESPEAK_LANGUAGES))
        voice = espeak_voice(language, str(rng.choice(ESPEAK_VARIANTS)), rng)
        utterances.append(synthesiser.speak(sentence(language[:2], rng), voice))
    return utterances


def flite_utterances(voices: tuple[str, ...], count: int, rng: np.random.Generator) -> list[Utterance]:
    """Return `count` utterances of each flite voice at varied speed and pitch."""
    return [
        speak_with_flite(sentence("en", rng), voice, rng.uniform(0.8, 1.3), rng.uniform(85, 220))
        for voice in voices
        for _ in tqdm(range(count), desc=f"flite {voice}", leave=False)
    ]


def festival_utterances(count: int, rng: np.random.Generator) -> list[Utterance]:
    """Return `count` utterances of each installed festival voice; voices not installed are skipped, and named."""
    utterances = []
    for voice in tqdm(FESTIVAL_VOICES, desc="festival", leave=False):
        language = {"ARPABET": "en", "RUSSIAN": "ru"}.get(voice.phone_set, "")
        texts = [sentence(language, rng).replace('"', "") for _ in range(count)]
        try:
            utterances += speak_with_festival(texts, voice)
        except (RuntimeError, KeyError) as error:
            logger.warning("festival voice %s left out: %s", voice.name, error)
    return utterances


def music(duration: float, rng: np.random.Generator) -> np.ndarray:
    """Return (T,) music without a voice: chords of harmonic notes with decays, a bass and noise drums."""
    time = np.arange(round(duration * SAMPLE_RATE)) / SAMPLE_RATE
    sound = np.zeros(len(time))
    beat = 60 / rng.uniform(60, 160)
    partials = np.arange(1, 9)
    timbre = rng.uniform(0.2, 1, 8) / partials ** rng.uniform(0.5, 2)
    for start in np.arange(0, duration, beat * rng.choice([0.5, 1, 2])):
        for _ in range(int(rng.integers(1, 5))):
            pitch = 110 * 2 ** (rng.integers(0, 36) / 12)
            local = np.clip(time - start, 0, None)
            envelope = np.minimum(local / 0.01, 1) * np.exp(-local / rng.uniform(0.1, 1.0))
            phases = 2 * np.pi * pitch * partials[:, None] * local[None]
            sound += envelope * (timbre[:, None] * np.sin(phases) * (pitch * partials < 7000)[:, None]).sum(
                axis=0
            )
    for start in np.arange(0, duration, beat * rng.choice([0.5, 1])):
        local = np.clip(time - start, 0, None)
        sound += rng.uniform(0, 2) * (local > 0) * np.exp(-local / 0.05) * rng.standard_normal(len(time))
    return (0.2 * sound / (np.abs(sound).max() + 1e-6)).astype(np.float32)


def coloured_noise(duration: float, rng: np.random.Generator) -> np.ndarray:
    """Return (T,) noise with a random spectral slope (white to brown) and a slow random loudness."""
    count = round(duration * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.maximum(np.arange(len(spectrum)), 1) ** rng.uniform(0, 1.2)
    noise = np.fft.irfft(spectrum, count)
    knots = rng.uniform(0.1, 1, 3 + int(2 * duration)) if rng.random() < 0.5 else np.ones(4)
    noise *= np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(knots)), knots)
    return (0.1 * noise / (noise.std() + 1e-9)).astype(np.float32)


def speechless_utterances(count: int, rng: np.random.Generator) -> list[Utterance]:
    """Return silence, coloured noise and music, all with a resting mouth."""
    makers = (music, coloured_noise, lambda duration, _: np.zeros(round(duration * SAMPLE_RATE), np.float32))
    utterances = []
    for index in range(count):
        duration = rng.uniform(3.5, 7)
        sound = makers[index % 3](duration, rng)
        utterances.append(Utterance(sound, (Phone(SILENCE, 0.0, duration),), "silence"))
    return utterances


def make_training_recordings(seed: int, scale: float = 1.0) -> list[Recording]:
    """Return all training recordings; `scale` shrinks every count for a quick try."""
    rng = np.random.default_rng(seed)
    utterances = espeak_utterances(round(1500 * scale), rng)
    utterances += flite_utterances(FLITE_VOICES[:2], round(420 * scale), rng)
    utterances += flite_utterances(FLITE_VOICES[2:], round(90 * scale), rng)
    utterances += festival_utterances(round(110 * scale), rng)
    utterances = [delayed(utterance, SILENT_LEAD) for utterance in utterances]
    utterances += speechless_utterances(round(240 * scale), rng)
    return [record(utterance, rng) for utterance in tqdm(utterances, desc="mel and truth", leave=False)]


def save_recordings(recordings: list[Recording], path: Path) -> None:
    """Write recordings to one .npz file, through a temporary name."""
    arrays = {}
    for name in ("mel_db", "mouth", "phones", "closed"):
        arrays[name] = np.concatenate([getattr(recording, name) for recording in recordings])
    for name in ("poses", "brows"):
        arrays[name] = np.concatenate([getattr(recording, name) for recording in recordings], axis=1)
    arrays["frames"] = np.array([len(recording.closed) for recording in recordings])
    arrays["voices"] = np.array([recording.voice for recording in recordings])
    temporary = path.with_suffix(".partial.npz")
    np.savez(temporary, **arrays)
    temporary.replace(path)


def load_recordings(path: Path) -> list[Recording]:
    """Read what `save_recordings` wrote."""
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    ends = np.cumsum(arrays["frames"])
    return [
        Recording(
            mel_db=arrays["mel_db"][4 * start : 4 * end],
            mouth=arrays["mouth"][start:end],
            phones=arrays["phones"][2 * start : 2 * end],
            closed=arrays["closed"][start:end],
            poses=arrays["poses"][:, start:end],
            brows=arrays["brows"][:, start:end],
            voice=str(voice),
        )
        for start, end, voice in zip(ends - arrays["frames"], ends, arrays["voices"], strict=True)
    ]
