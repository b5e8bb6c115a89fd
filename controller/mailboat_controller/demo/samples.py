"""Audio for the demo.

The models hear 16 kHz audio in chunks of 512 samples (32 ms). What they are fed is 576 samples: the
last 64 of the chunk before (zeros at the start) and the 512 new ones. The recurrent state goes in
as ``state`` and comes out as ``stateN``. A bare 512 runs too but gives other probabilities.
Source: ``OnnxWrapper`` in silero_vad/utils_vad.py, since silero-vad 5.
"""

import math
import random

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Audio = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
CHUNK_SAMPLES = 512
CONTEXT_SAMPLES = 64
STATE_SHAPE = (2, 1, 128)  # hidden and cell state of the recurrent layer, for a batch of one

QUIET_PEAK = 0.4  # no golden sample and no quiet request goes beyond it
LOUD_GAIN = 3.0  # times a peak of 0.4, clipped at 1.0: what a microphone too close delivers
FORMANTS_HZ = (500.0, 1500.0, 2500.0)  # of a neutral vowel
FORMANT_WIDTH_HZ = 200.0
HARMONICS = 24
NOISE_LEVEL = 0.01


def quiet_voice(rng: random.Random, chunks: int) -> Audio:
    """``chunks`` x 512 samples of a voice-like sound, peak 0.4: harmonics, formants, syllables."""
    time_seconds = np.arange(chunks * CHUNK_SAMPLES) / SAMPLE_RATE_HZ
    pitch_hz = rng.uniform(100, 200) + 15 * np.sin(2 * np.pi * rng.uniform(1, 3) * time_seconds)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = np.zeros_like(time_seconds)
    for harmonic in range(1, HARMONICS + 1):
        frequency_hz = harmonic * float(pitch_hz.mean())
        weight = sum(
            math.exp(-(((frequency_hz - formant) / FORMANT_WIDTH_HZ) ** 2)) / (1 + place)
            for place, formant in enumerate(FORMANTS_HZ)
        )
        voice += (0.02 + weight) * np.sin(harmonic * phase)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * time_seconds + rng.uniform(0, 2 * np.pi))
    voice *= syllables / np.abs(voice).max()
    voice += NOISE_LEVEL * np.random.default_rng(rng.getrandbits(64)).standard_normal(voice.size)
    levelled: Audio = (voice * (QUIET_PEAK / np.abs(voice).max())).astype(np.float32)
    return levelled


def frames(audio: Audio) -> Audio:
    """Cut audio into model inputs with their context, shape [chunks, 576]."""
    padded = np.concatenate([np.zeros(CONTEXT_SAMPLES, np.float32), audio])
    starts = range(0, audio.size - CHUNK_SAMPLES + 1, CHUNK_SAMPLES)
    return np.stack([padded[i : i + CONTEXT_SAMPLES + CHUNK_SAMPLES] for i in starts])


def model_inputs(frame: Audio, state: Array) -> dict[str, Array]:
    """One inference: ``input`` [1, 576] float32, ``state`` [2, 1, 128] float32, ``sr`` scalar."""
    return {
        "input": frame.reshape(1, -1),
        "state": state,
        "sr": np.array(SAMPLE_RATE_HZ, dtype=np.int64),
    }


def live_request(rng: random.Random, loud: bool) -> dict[str, Array]:
    """One live inference from a fresh state; a loud one is clipped, its peak is 1.0 exactly."""
    audio = quiet_voice(rng, 1)
    if loud:
        audio = np.clip(audio * np.float32(LOUD_GAIN), -1, 1)
    return model_inputs(frames(audio)[0], np.zeros(STATE_SHAPE, np.float32))
