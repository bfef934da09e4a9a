"""Made clips and a tiny autoencoder, for the training of the small FantasyTalking."""

import numpy as np
from talking_portrait.core_models.motion.motion_intensity import EmpiricalDistribution, IntensityScale
from talking_portrait.core_models.video_diffusion.wan.autoencoder import WanAutoencoderParameters
from talking_portrait.training.fantasytalking_data import TalkingClip, heard_rows

LAYERS, CHANNELS = 2, 3
"""Of what the made clips hear."""
TINY_AUTOENCODER = WanAutoencoderParameters.unmeasured(
    base_dim=8, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2, z_dim=16
)
LINE = EmpiricalDistribution((0.0, 1.0), (0.0, 1.0))
SCALE = IntensityScale(LINE, LINE)


def talking_clip(seed: int = 0, frames: int = 9) -> TalkingClip:
    """Even colours that change from frame to frame, a dark mouth and dark eyes that wander to the right."""
    rng = np.random.default_rng(seed)
    pictures = np.empty((frames, 64, 64, 3), np.uint8)
    pictures[:] = rng.integers(80, 250, (frames, 1, 1, 3))
    mouths, eyes = [], []
    for frame in range(frames):
        mouths.append((22 + frame % 4, 40, 38 + frame % 4, 48))
        eyes.append((16 + frame % 4, 20, 44 + frame % 4, 24))
        for left, top, right, bottom in (mouths[-1], eyes[-1]):
            pictures[frame, top:bottom, left:right] = 30
    return TalkingClip(
        frames=pictures,
        heard=rng.normal(0, 1, (heard_rows(frames), LAYERS, CHANNELS)).astype(np.float16),
        mouth_opening=rng.uniform(0, 0.1, frames).astype(np.float32),
        eye_opening=rng.uniform(0, 0.06, frames).astype(np.float32),
        turn=rng.uniform(-8, 8, (frames, 2)).astype(np.float32),
        place=rng.uniform(20, 40, (frames, 2)).astype(np.float32),
        face_box=np.int32([[8, 8, 56, 60]] * frames),
        mouth_box=np.int32(mouths),
        eye_box=np.int32(eyes),
        face_variance=np.array(rng.uniform(0, 1)),
        body_variance=np.array(rng.uniform(0, 1)),
        identity_seed=seed,
    )
