"""Made sound, a sink that keeps its frames, and a stream that needs no model."""

import io
import wave

import numpy as np
from talking_portrait.core_models.types import FaceMotion
from talking_portrait.headless.frame_sinks import ReaderGoneError


def tone(seconds, rate, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate))[None].astype(
        np.float32
    )


def wav_bytes(waveform, rate):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(len(waveform))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((waveform.T * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


class ListSink:
    """Keeps frames; its reader goes away after `lasting` of them."""

    channels, may_block = 1, False

    def __init__(self, lasting=10**9):
        self.frames, self.ended, self._lasting = [], None, lasting

    def frame(self, frame):
        if len(self.frames) == self._lasting:
            raise ReaderGoneError
        self.frames.append(frame)

    def sound(self, waveform):
        pass

    def close(self):
        self.ended = "closed"

    def abandon(self):
        self.ended = "abandoned"


class StillStream:
    """Gives one moving frame for every 640 samples."""

    fps, sample_rate, frames_ahead = 25.0, 16000, 0

    def __init__(self):
        self._heard = self._given = 0

    def push(self, waveform):
        self._heard += len(waveform)
        return self._frames(self._heard // 640)

    def finish(self):
        return self._frames(-(-self._heard // 640))

    def _frames(self, stop):
        first, self._given = self._given, stop
        if stop == first:
            return None
        still = FaceMotion.at_rest(stop, 25.0)
        expression = still.expression.copy()
        expression[:, 24] = 0.5 * np.abs(np.sin(np.arange(stop)))
        return FaceMotion(
            "blendshapes",
            25.0,
            *(track[first:] for track in (expression, still.rotation, still.translation, still.scale)),
        )
