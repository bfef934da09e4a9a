"""Speech whose phonemes and times are known: espeak-ng, flite and festival, as installed on this machine.

Only training needs them. Each synthesiser returns 16 kHz mono sound and the phones in it. The times are
corrected where the synthesiser books them otherwise than the mouth moves (see `stop_closures`).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr

from ..core_models.audio.decode import decode_sound
from . import visemes
from .visemes import BILABIAL, SILENCE, Phone, phone_to_symbols, split_ipa, spread_over

logger = logging.getLogger(__name__)

SAMPLE_RATE = 16000
UNVOICED_STOPS = frozenset("ptkʈcq")
CLOSURE_LEAD = 0.050  # an unvoiced espeak stop is booked at its burst; the mouth closed this much earlier
CLOSURE_SHARE = 0.30  # of such a segment the stop's mouth target lasts; the rest is aspiration
NATURAL_RELEASE_SHARE = 0.75  # a recorded voice's stop segment is closed until about here


@dataclass(frozen=True)
class Utterance:
    """One synthesised sentence. waveform: (T,) float32, 16 kHz; phones in order, seconds; voice: its label."""

    waveform: np.ndarray
    phones: tuple[Phone, ...]
    voice: str


class SynthesiserMissingError(OSError):
    """A speech synthesiser needed for training is not installed."""


class _EspeakEvent(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("value", ctypes.c_char * 8),
    )


_ESPEAK_SYNCHRONOUS = 2
_ESPEAK_OPTIONS = 1 | 2 | 0x8000  # phoneme events, in IPA, and never exit the process
_ESPEAK_PHONEME, _ESPEAK_END = 7, 0
_ESPEAK_UTF8 = 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent)
)


@dataclass(frozen=True)
class EspeakVoice:
    """An espeak-ng voice and how it speaks. rate: words a minute; pitch, pitch_range: 0..99; gap: 10 ms units."""

    name: str
    rate: int = 165
    pitch: int = 50
    pitch_range: int = 50
    gap: int = 0


class EspeakSynthesiser:
    """espeak-ng through its C library, which tells the exact sample at which each phoneme starts."""

    def __init__(self) -> None:
        path = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise SynthesiserMissingError("espeak-ng is not installed: apt-get install espeak-ng") from error
        self.rate = self._library.espeak_Initialize(_ESPEAK_SYNCHRONOUS, 0, None, _ESPEAK_OPTIONS)
        if self.rate <= 0:
            raise SynthesiserMissingError("espeak-ng did not start: is the package espeak-ng-data installed?")
        self._variants = self._installed_variants()
        self._sound: list[np.ndarray] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _CALLBACK(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _installed_variants(self) -> frozenset[str]:
        data_folder = ctypes.c_char_p()
        self._library.espeak_Info(ctypes.byref(data_folder))
        return frozenset(path.name for path in (Path(data_folder.value.decode()) / "voices" / "!v").iterdir())

    def _receive(self, samples, count, events) -> int:
        if samples and count > 0:
            self._sound.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events and events[index].type != _ESPEAK_END:
            if events[index].type == _ESPEAK_PHONEME:
                self._events.append((events[index].sample, events[index].value.decode("utf-8", "ignore")))
            index += 1
        return 0

    def speak(self, text: str, voice: EspeakVoice) -> Utterance:
        """Return `text` spoken. Raises ValueError when the voice or its variant is unknown."""
        require_variant(voice.name, self._variants)
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice.name!r}")
        for parameter, value in ((1, voice.rate), (3, voice.pitch), (4, voice.pitch_range), (7, voice.gap)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._sound, self._events = [], []
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _ESPEAK_UTF8, None, None)
        sound = (
            np.concatenate(self._sound).astype(np.float32) / 32768 if self._sound else np.zeros(1, np.float32)
        )
        phones = espeak_phones(self._events, self.rate, len(sound) / self.rate)
        return Utterance(soxr.resample(sound, self.rate, SAMPLE_RATE), tuple(phones), f"espeak:{voice.name}")


def require_variant(name: str, installed: frozenset[str]) -> None:
    """Raise ValueError when a voice name asks for a variant that is not installed.

    espeak-ng itself would say nothing and speak with the default voice.
    """
    variant = name.partition("+")[2]
    if variant and variant not in installed:
        raise ValueError(
            f"espeak-ng has no variant {variant!r} (of {name!r}); it has {', '.join(sorted(installed))}"
        )


def espeak_phones(events: list[tuple[int, str]], rate: int, duration: float) -> list[Phone]:
    """Return the phones of espeak-ng's (sample, IPA) events, unvoiced stops moved to their closure."""
    events = [(sample / rate, ipa) for sample, ipa in events if "(" not in ipa]
    phones: list[Phone] = []
    ends = [time for time, _ in events[1:]] + [duration]
    for (start, ipa), end in zip(events, ends, strict=True):
        symbols = split_ipa(ipa)
        stop = bool(ipa) and ipa[0] in UNVOICED_STOPS and len(symbols) == 1
        if not stop:
            phones += spread_over(symbols, start, end, bilabial=ipa[:1] in ("b", "m"))
            continue
        lead = min(CLOSURE_LEAD, (phones[-1].end - phones[-1].start) / 2) if phones else 0.0
        if phones:
            phones[-1] = replace(phones[-1], end=phones[-1].end - lead)
        release = start + CLOSURE_SHARE * (end - start)
        phones.append(Phone(symbols[0], start - lead, release, bilabial_stop=ipa[0] == "p"))
        phones.append(Phone("hh", release, end))
    return phones


def natural_phones(segments: list[tuple[str, float]], phone_set: dict[str, str]) -> list[Phone]:
    """Return the phones of a recorded voice's (phone, end time) list; stop segments include their closure."""
    phones: list[Phone] = []
    start = 0.0
    for name, end in segments:
        symbols = phone_to_symbols(name, phone_set)
        ipa = phone_set.get(name, phone_set.get(name.rstrip(":0123456789"), ""))
        if symbols == [BILABIAL] and ipa in ("p", "b"):
            release = start + NATURAL_RELEASE_SHARE * (end - start)
            phones.append(Phone(BILABIAL, start, release, bilabial_stop=True))
            phones.append(Phone("hh", release, end))
        else:
            phones += spread_over(symbols, start, end, bilabial=ipa == "m")
        start = end
    return phones


def _run(command: list[str], timeout: float = 120) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, errors="replace"
        )
    except FileNotFoundError as error:
        raise SynthesiserMissingError(
            f"{command[0]} is not installed: apt-get install {command[0]}"
        ) from error
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stderr.strip()[-300:]}")
    return done.stdout


def _sound_16k(path: Path) -> np.ndarray:
    sound = decode_sound(path)
    return soxr.resample(np.asarray(sound.waveform).mean(axis=0), sound.sample_rate, SAMPLE_RATE)


def speak_with_flite(text: str, voice: str, stretch: float = 1.0, pitch: float | None = None) -> Utterance:
    """Return `text` spoken by flite's `voice`; stretch > 1 is slower, pitch in Hz."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "-psdur", "--setf", f"duration_stretch={stretch:.3f}"]
        if pitch is not None:
            command += ["--setf", f"int_f0_target_mean={pitch:.1f}"]
        printed = _run([*command, "-t", text, "-o", str(target)])
        segments = [(name, float(end)) for name, end in re.findall(r"(\S+?):([0-9.]+)", printed)]
        phones = natural_phones(segments, visemes.ARPABET)
        return Utterance(_sound_16k(target), tuple(phones), f"flite:{voice}")


@dataclass(frozen=True)
class FestivalVoice:
    """A festival voice, the phone set it speaks in, and the text encoding it expects."""

    name: str
    phone_set: str
    encoding: str = "utf-8"


FESTIVAL_VOICES: tuple[FestivalVoice, ...] = (
    FestivalVoice("ked_diphone", "ARPABET"),
    FestivalVoice("cmu_us_slt_arctic_hts", "ARPABET"),
    FestivalVoice("czech_ph", "CZECH", "iso-8859-2"),
    FestivalVoice("czech_dita", "CZECH", "iso-8859-2"),
    FestivalVoice("czech_machac", "CZECH", "iso-8859-2"),
    FestivalVoice("suo_fi_lj_diphone", "FINNISH", "latin-1"),
    FestivalVoice("hy_fi_mv_diphone", "FINNISH", "latin-1"),
    FestivalVoice("msu_ru_nsh_clunits", "RUSSIAN"),
    FestivalVoice("upc_ca_ona_hts", "CATALAN", "latin-1"),
)

_FESTIVAL_SCRIPT = """
(define (speak text file)
  (let ((u (eval (list 'Utterance 'Text text))))
    (utt.synth u)
    (utt.save.wave u file 'riff)
    (format t "segments ")
    (mapcar (lambda (s) (format t "%s:%f " (item.name s) (item.feat s "end"))) (utt.relation.items u 'Segment))
    (format t "\\n")))
"""


def speak_with_festival(texts: list[str], voice: FestivalVoice) -> list[Utterance]:
    """Return each text spoken by a festival voice (one process for all, since loading a voice is slow)."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [_FESTIVAL_SCRIPT, f"(voice_{voice.name})"]
        targets = [Path(folder) / f"{index}.wav" for index in range(len(texts))]
        lines += [f'(speak "{text}" "{target}")' for text, target in zip(texts, targets, strict=True)]
        script = Path(folder) / "speak.scm"
        script.write_bytes("\n".join(lines).encode(voice.encoding, "ignore"))
        printed = _run(["festival", "-b", str(script)], timeout=900)
        phone_set = getattr(visemes, voice.phone_set)
        utterances = []
        spoken = [line for line in printed.splitlines() if line.startswith("segments ")]
        for line, target in zip(spoken, targets, strict=False):
            segments = [(name, float(end)) for name, end in re.findall(r"(\S+?):([0-9.]+)(?=\s|$)", line[9:])]
            phones = natural_phones(segments, phone_set)
            utterances.append(Utterance(_sound_16k(target), tuple(phones), f"festival:{voice.name}"))
        return utterances


def silent_utterance(duration: float) -> Utterance:
    """Return `duration` seconds of digital silence with a resting mouth."""
    sound = np.zeros(round(duration * SAMPLE_RATE), np.float32)
    return Utterance(sound, (Phone(SILENCE, 0.0, duration),), "silence")
