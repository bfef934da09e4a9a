"""How good is the pocket model? Every figure of its model card comes from here.

`python -m talking_portrait.training.evaluation --weights pocket.safetensors [--real FOLDER]`
The truth is the rule table of visemes.py on speech the model never heard: other espeak voices, languages
left out, and a recorded-voice synthesiser left out. Real recordings have no truth; for them the mouth is
compared with the voiced energy, and with a real man's lips where a film is at hand.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfiltfilt

from ..core_models.audio.decode import Sound, decode_sound
from ..core_models.audio.embedding import embed_audio
from ..core_models.audio.mel import mel_decibels
from ..core_models.audio.resample import resample, to_mono
from ..core_models.keypoint_diffusion.loading import EMBEDDED_POCKET, load_pocket
from ..core_models.keypoint_diffusion.pocket import POCKET_EMOTIONS, PocketModel
from ..core_models.keypoint_diffusion.sampler import (
    OVERLAP_FRAMES,
    SamplingParameters,
    lip_opening,
    sample_motion,
)
from ..core_models.motion.track import CLOSED_APERTURE
from ..core_models.types import BLENDSHAPE_INDEX, Emotion, FaceMotion
from .correlation import correlation
from .mouth_curves import closure_frames, mouth_curves
from .performance import FPS, mouth_to_blendshapes, perform
from .pocket_data import (
    ESPEAK_LANGUAGES,
    ESPEAK_VARIANTS,
    HELD_OUT_FLITE_VOICE,
    HELD_OUT_LANGUAGES,
    HELD_OUT_VARIANTS,
    coloured_noise,
    delayed,
    espeak_voice,
    frame_levels,
    music,
)
from .speech_synthesis import SAMPLE_RATE, EspeakSynthesiser, Utterance, speak_with_flite
from .speech_texts import sentence

logger = logging.getLogger(__name__)

OPEN_APERTURE = 0.20
CLOSURE_TOLERANCE = 1  # frames
QUIET_DECIBELS = -35.0  # below the clip's loud frames
SPEECH_BAND = (200.0, 3000.0)
LAG_LIMIT = 5  # frames
VISIBLE_SPREAD = 0.005  # of a coefficient, degree or face unit; a channel that moves less is not judged

Predictor = Callable[[Sound], FaceMotion]


@dataclass(frozen=True)
class Clip:
    """Speech with its truth. expression: (N, 52) at 25 fps; closures: frames at the middle of p, b, m."""

    sound: Sound
    expression: np.ndarray
    closures: np.ndarray


def clip_of(utterance: Utterance) -> Clip:
    """Return an utterance as a clip, with a moment of silence before it."""
    utterance = delayed(utterance, 0.4)
    per_frame = SAMPLE_RATE // FPS
    frames = len(utterance.waveform) // per_frame
    waveform = utterance.waveform[: frames * per_frame]
    level = frame_levels(mel_decibels(waveform), frames)
    mouth = mouth_curves(list(utterance.phones), level, FPS)
    closures = closure_frames(list(utterance.phones), FPS, frames)
    return Clip(Sound(waveform[None], SAMPLE_RATE), mouth @ mouth_to_blendshapes(), closures)


def held_out_clips(count: int, seed: int = 99) -> dict[str, list[Clip]]:
    """Return the three test sets: other espeak voices, languages left out, a recorded voice left out."""
    rng = np.random.default_rng(seed)
    espeak = EspeakSynthesiser()

    def spoken(languages: tuple[str, ...], variants: tuple[str, ...]) -> Clip:
        language = str(rng.choice(languages))
        voice = espeak_voice(language, str(rng.choice(variants)), rng)
        return clip_of(espeak.speak(sentence(language[:2], rng), voice))

    return {
        "other espeak voices": [spoken(ESPEAK_LANGUAGES, HELD_OUT_VARIANTS) for _ in range(count)],
        "languages left out": [spoken(HELD_OUT_LANGUAGES, ESPEAK_VARIANTS) for _ in range(count)],
        "recorded voice left out": [
            clip_of(speak_with_flite(sentence("en", rng), HELD_OUT_FLITE_VOICE)) for _ in range(count)
        ],
    }


def mouth_scores(predict: Predictor, clips: list[Clip]) -> dict[str, float]:
    """Return jaw and pucker correlation, closure recall, false closures and the open/closed F1 over all frames."""
    tracks = [predict(clip.sound).expression[: len(clip.expression)] for clip in clips]
    truth = np.concatenate([clip.expression for clip in clips])
    made = np.concatenate(tracks)
    hits = [
        (
            lip_opening(track)[max(0, f - CLOSURE_TOLERANCE) : f + CLOSURE_TOLERANCE + 1] < CLOSED_APERTURE
        ).any()
        for track, clip in zip(tracks, clips, strict=True)
        for f in clip.closures
    ]
    wide = lip_opening(truth) > OPEN_APERTURE
    closed = lip_opening(made) < CLOSED_APERTURE
    true_open = lip_opening(truth) >= CLOSED_APERTURE
    both = (true_open & ~closed).sum()
    jaw, pucker = BLENDSHAPE_INDEX["jawOpen"], BLENDSHAPE_INDEX["mouthPucker"]
    return {
        "jaw": correlation(made[:, jaw], truth[:, jaw]),
        "pucker": correlation(made[:, pucker], truth[:, pucker]),
        "closure": float(np.mean(hits)),
        "false": float(closed[wide].mean()),
        "f1": float(2 * both / max(1, true_open.sum() + (~closed).sum())),
    }


def pocket_predictor(
    model: PocketModel, parameters: SamplingParameters, emotion: Emotion | None = None
) -> Predictor:
    """Return the model as a function of sound."""
    return lambda sound: sample_motion(model, embed_audio(sound), emotion, parameters)


def energy_predictor(sound: Sound) -> FaceMotion:
    """The baseline: the jaw follows the smoothed loudness and nothing else moves."""
    waveform = sound.waveform[0]
    frames = len(waveform) // (SAMPLE_RATE // FPS)
    level = frame_levels(mel_decibels(waveform), frames)
    jaw = gaussian_filter1d(np.clip((level + 30) / 30, 0, 1), 1.0) * 0.45
    motion = FaceMotion.at_rest(frames, FPS)
    expression = np.array(motion.expression)
    expression[:, BLENDSHAPE_INDEX["jawOpen"]] = jaw
    return FaceMotion(motion.space, FPS, expression, motion.rotation, motion.translation, motion.scale)


def noise_sound(kind: str, duration: float, seed: int = 5) -> Sound:
    """Return silence, pink noise or music without a voice, seeded."""
    rng = np.random.default_rng(seed)
    count = round(duration * SAMPLE_RATE)
    if kind == "silence":
        waveform = np.zeros(count, np.float32)
    elif kind == "music":
        waveform = music(duration, rng)
    elif kind == "pink noise":
        spectrum = np.fft.rfft(rng.standard_normal(count))
        waveform = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
        waveform = 0.1 * waveform / waveform.std()
    else:
        waveform = coloured_noise(duration, rng)
    return Sound(waveform[None].astype(np.float32), SAMPLE_RATE)


def speechless_scores(predict: Predictor) -> dict[str, float]:
    """Return the mean aperture in silence, and the share of frames open in pink noise and in music."""
    mouth = [index for name, index in BLENDSHAPE_INDEX.items() if name.startswith(("mouth", "jaw"))]
    silence = predict(noise_sound("silence", 8.0))
    return {
        "silence mouth mean": float(silence.expression[:, mouth].mean()),
        "silence aperture mean": float(lip_opening(silence.expression).mean()),
        **{
            f"{kind} open": float(
                np.mean(
                    np.concatenate(
                        [
                            lip_opening(predict(noise_sound(kind, 8.0, seed)).expression) >= CLOSED_APERTURE
                            for seed in range(4)
                        ]
                    )
                )
            )
            for kind in ("pink noise", "music")
        },
    }


def emotion_scores(model: PocketModel, clips: list[Clip]) -> dict[str, float]:
    """Return how many clips a nearest-centroid reader names, and the least jaw correlation with neutral.

    Centroids come from the first half of the clips, and are tried on the other half.
    """
    means: dict[str, list[np.ndarray]] = {name: [] for name in POCKET_EMOTIONS}
    jaw_correlations = []
    for index, clip in enumerate(clips):
        tracks = {}
        for name in POCKET_EMOTIONS:
            predict = pocket_predictor(model, SamplingParameters(seed=index), Emotion.mixed({name: 1.0}))
            tracks[name] = predict(clip.sound).expression
            means[name].append(tracks[name].mean(axis=0))
        jaws = {name: track[:, BLENDSHAPE_INDEX["jawOpen"]] for name, track in tracks.items()}
        jaw_correlations += [
            correlation(jaws["neutral"], jaw) for name, jaw in jaws.items() if name != "neutral"
        ]
    half = len(clips) // 2
    centroids = {name: np.mean(rows[:half], axis=0) for name, rows in means.items()}
    named = [
        min(centroids, key=lambda other: np.linalg.norm(centroids[other] - row)) == name
        for name, rows in means.items()
        for row in rows[half:]
    ]
    return {"named": float(np.mean(named)), "least jaw correlation": float(np.min(jaw_correlations))}


def seam_ratios(motion: FaceMotion, window: int) -> dict[str, float]:
    """Return, for each moving channel, the mean step where windows meet over the mean step elsewhere.

    A border is the whole stretch where two windows cross-fade.
    """
    pose = np.concatenate([motion.rotation, motion.translation], axis=1)
    values = np.concatenate([motion.expression, pose], axis=1)
    names = [*BLENDSHAPE_INDEX, "pitch", "yaw", "roll", "x", "y", "z"]
    steps = np.abs(np.diff(values, axis=0))
    at_border = np.zeros(len(steps), bool)
    for border in range(window - OVERLAP_FRAMES, len(values), window - OVERLAP_FRAMES):
        at_border[border - 1 : border + OVERLAP_FRAMES] = True
    moving = values.std(axis=0) > VISIBLE_SPREAD
    return {
        name: float(steps[at_border, i].mean() / steps[~at_border, i].mean())
        for i, name in enumerate(names)
        if moving[i]
    }


def blinks_per_minute(motion: FaceMotion) -> float:
    """Return how often the left lid closes past one half."""
    closed = motion.blendshape("eyeBlinkLeft") > 0.5
    return float((closed[1:] & ~closed[:-1]).sum() / motion.duration * 60)


def performance_scores(model: PocketModel, long_sound: Sound) -> dict[str, float]:
    """Return blinks a minute, the spread of yaw against the truth's, and the worst seam, over several seeds."""
    tracks = [
        sample_motion(model, embed_audio(long_sound), None, SamplingParameters(seed=seed))
        for seed in range(6)
    ]
    waveform = resample(to_mono(long_sound), SAMPLE_RATE).waveform[0]
    level = frame_levels(mel_decibels(waveform), tracks[0].frame_count - 1)
    truth = [perform(np.clip((level + 40) / 40, 0, 1), np.random.default_rng(seed))[0] for seed in range(6)]
    still = SamplingParameters(seed=0, blinks_per_minute=0, gaze=False)
    seams: dict[str, list[float]] = {}
    for seed in range(6):
        track = sample_motion(
            model, embed_audio(long_sound), None, SamplingParameters(**{**vars(still), "seed": seed})
        )
        for name, ratio in seam_ratios(track, model.parameters_used.denoiser.window).items():
            seams.setdefault(name, []).append(ratio)
    worst = max(seams, key=lambda name: np.mean(seams[name]))
    spread = [np.mean([t.rotation[:, axis].std() for t in tracks]) for axis in range(3)]
    true_spread = [np.mean([t[:, axis].std() for t in truth]) for axis in range(3)]
    return {
        "blinks per minute": float(np.mean([blinks_per_minute(track) for track in tracks])),
        **{
            f"{n} spread ratio": float(a / b)
            for n, a, b in zip(("pitch", "yaw", "roll"), spread, true_spread, strict=True)
        },
        "worst seam ratio": float(np.mean(seams[worst])),
        "worst seam channel": worst,
    }


def band_energy(sound: Sound, fps: float) -> np.ndarray:
    """Return the 200-3000 Hz energy per frame in dB above a floor, smoothed by one frame, (N,)."""
    mono = resample(to_mono(sound), SAMPLE_RATE).waveform[0]
    band = sosfiltfilt(butter(4, SPEECH_BAND, "bandpass", fs=SAMPLE_RATE, output="sos"), mono)
    edges = np.round(np.arange(0, len(band) / SAMPLE_RATE, 1 / fps) * SAMPLE_RATE).astype(int)
    power = np.array([np.mean(band[a:b] ** 2) for a, b in itertools.pairwise(edges)])
    level = 10 * np.log10(power + 1e-10)
    return gaussian_filter1d(np.maximum(level - (np.percentile(level, 95) - 40), 0), 1.0)


def real_speech_scores(predict: Predictor, sound: Sound) -> dict[str, float]:
    """Return the jaw's correlation with voiced energy, its best lag, and the share of quiet frames open."""
    motion = predict(sound)
    energy = band_energy(sound, FPS)
    count = min(len(energy), motion.frame_count)
    jaw = motion.blendshape("jawOpen")[:count]
    by_lag = {lag: lagged_correlation(jaw, energy[:count], lag) for lag in range(-LAG_LIMIT, LAG_LIMIT + 1)}
    quiet = energy[:count] < energy.max() + QUIET_DECIBELS
    for shift in (1, 2):  # a frame is quiet only with quiet neighbours
        quiet = quiet & np.roll(quiet, shift) & np.roll(quiet, -shift)
    opened = lip_opening(motion.expression)[:count] >= CLOSED_APERTURE
    return {
        "jaw-energy at lag 0": by_lag[0],
        "best lag": max(by_lag, key=by_lag.get),
        "open in quiet": float(opened[quiet].mean()) if quiet.any() else float("nan"),
        "quiet frames": int(quiet.sum()),
    }


def lagged_correlation(a: np.ndarray, b: np.ndarray, lag: int) -> float:
    """Return r between a[t] and b[t + lag] over the frames where both exist."""
    if lag < 0:
        return lagged_correlation(b, a, -lag)
    return correlation(a[: len(a) - lag], b[lag:])


def lip_gaps(film: Path, bundle: Path) -> tuple[np.ndarray, float]:
    """Return a real face's inner-lip gap over its eye distance per frame, (N,), and the film's rate."""
    from ..core_models.face.landmarker import FaceLandmarker
    from ..core_models.video_file import read_video_frames

    landmarker = FaceLandmarker(bundle)
    stream = read_video_frames(film)
    gaps, previous = [], None
    for frame in stream:
        previous = landmarker.track(frame, previous) if previous is not None else None
        if previous is None:
            previous = landmarker.detect(frame)[0]
        points = previous.landmarks[:, :2]
        gaps.append(np.linalg.norm(points[13] - points[14]) / np.linalg.norm(points[33] - points[263]))
    return np.array(gaps), stream.fps


def real_face_scores(model: PocketModel, film: Path, bundle: Path) -> dict[str, float]:
    """Return best correlations within five frames of a real mouth with the made jaw, and with plain energy."""
    gaps, fps = lip_gaps(film, bundle)
    sound = decode_sound(film)
    motion = sample_motion(model, embed_audio(sound), None, SamplingParameters(fps=fps))
    scores = {}
    for name, track in (
        ("jaw", motion.blendshape("jawOpen")),
        ("aperture", lip_opening(motion.expression)),
        ("energy", band_energy(sound, fps)),
    ):
        count = min(len(track), len(gaps))
        by_lag = {
            lag: lagged_correlation(track[:count], gaps[:count], lag)
            for lag in range(-LAG_LIMIT, LAG_LIMIT + 1)
        }
        best = max(by_lag, key=by_lag.get)
        scores |= {
            f"{name} at lag 0": by_lag[0],
            f"{name} at best lag": by_lag[best],
            f"{name} best lag": best,
        }
    return scores


def sampling_cost(model: PocketModel, seconds: float = 30.0) -> float:
    """Return milliseconds of one core per second of speech, features included (a benchmark figure)."""
    sound = noise_sound("music", seconds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sample_motion(model, embed_audio(sound), None, SamplingParameters())
    began = time.process_time()
    sample_motion(model, embed_audio(sound), None, SamplingParameters())
    torch.set_num_threads(threads)
    return (time.process_time() - began) / seconds * 1000


def evaluate(model: PocketModel, clips_per_set: int, real: Path | None) -> dict[str, dict]:
    """Return every figure, grouped."""
    sets = held_out_clips(clips_per_set)
    pocket = pocket_predictor(model, SamplingParameters())
    unclosed = pocket_predictor(model, SamplingParameters(closure_threshold=1.0))
    figures: dict[str, dict] = {}
    for name, clips in sets.items():
        figures[name] = {
            "energy": mouth_scores(energy_predictor, clips),
            "without closure decoding": mouth_scores(unclosed, clips),
            "pocket": mouth_scores(pocket, clips),
        }
    figures["no speech"] = speechless_scores(pocket)
    figures["emotions"] = emotion_scores(model, sets["other espeak voices"][:12])
    joined = np.concatenate([clip.sound.waveform for clip in sets["recorded voice left out"]], axis=1)
    figures["performance"] = performance_scores(model, Sound(joined[:, : 64 * SAMPLE_RATE], SAMPLE_RATE))
    figures["cost"] = {"ms per second of speech": sampling_cost(model)}
    if real is not None:
        figures["real speech"] = {
            path.name: real_speech_scores(pocket, decode_sound(path)) for path in sorted((real / "speech").glob("*.*"))
            if "silence" not in path.name
        }  # fmt: skip
        film = real / "driving" / "man_suit_talk_700_30fps_audio.mp4"
        figures["real face"] = real_face_scores(model, film, real / "face_landmarker.task")
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Measure a weight file and write the figures as JSON to standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=EMBEDDED_POCKET)
    parser.add_argument("--clips", type=int, default=24, help="clips in each test set")
    parser.add_argument("--real", type=Path, help="folder with speech/, driving/ and face_landmarker.task")
    options = parser.parse_args(arguments)
    figures = evaluate(load_pocket(options.weights), options.clips, options.real)
    json.dump(figures, sys.stdout, indent=1, default=float)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
