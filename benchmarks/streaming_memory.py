"""How much more memory a minute of speech needs than five seconds, from sound to mp4 through the streaming path.

`python benchmarks/streaming_memory.py [--landmarks FILE --portrait FILE]` prints the peak resident memory of a
fresh process for each length, and the difference. The portrait is the demo's unless given.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from peak_memory import peak_megabytes

ROOT = Path(__file__).resolve().parent.parent
LENGTHS = (5.0, 60.0)


def render_speech(seconds: float, target: Path) -> None:
    """Speak `seconds` of the demo speech, repeated, with the demo portrait."""
    import numpy as np
    from talking_portrait.core_models.audio.decode import Sound, decode_sound
    from talking_portrait.core_models.audio.embedding import embed_audio
    from talking_portrait.core_models.audio.resample import pad_to_frames
    from talking_portrait.core_models.face.landmarks import read_landmarks
    from talking_portrait.core_models.face.portrait import portrait_from_landmarks
    from talking_portrait.core_models.keypoint_diffusion.loading import load_pocket
    from talking_portrait.core_models.keypoint_diffusion.sampler import sample_motion
    from talking_portrait.core_models.rendering.mesh import MeshRenderer
    from talking_portrait.core_models.video_file import write_video

    assets = ROOT / "workflows" / "assets"
    speech = decode_sound(assets / "demo_speech.wav")
    repeats = int(np.ceil(seconds * speech.sample_rate / speech.sample_count))
    waveform = np.tile(speech.waveform, (1, repeats))[:, : round(seconds * speech.sample_rate)]
    sound, _ = pad_to_frames(Sound(waveform, speech.sample_rate), 25)
    motion = sample_motion(load_pocket(), embed_audio(sound))
    from skimage.data import astronaut

    face = read_landmarks(assets / "astronaut.landmarks.json")
    renderer = MeshRenderer(portrait_from_landmarks(astronaut(), face.landmarks, face.blendshapes))
    write_video(target, renderer.frames(motion), 25, sound)


def main() -> None:
    """Print the peaks, or, with --render, be the process that is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.render is not None:
        with tempfile.TemporaryDirectory() as folder:
            render_speech(options.render, Path(folder) / "speech.mp4")
        return
    peaks = [peak_megabytes(__file__, "--render", str(seconds)) for seconds in LENGTHS]
    for seconds, peak in zip(LENGTHS, peaks, strict=True):
        sys.stdout.write(f"{seconds:5.0f} s of speech: {peak:7.0f} MB at most\n")
    sys.stdout.write(f"difference: {peaks[1] - peaks[0]:.0f} MB\n")


if __name__ == "__main__":
    main()
