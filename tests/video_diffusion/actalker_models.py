"""Small ACTalkers for tests, of random weights."""

import torch
from talking_portrait.core_models.audio.embedding import POCKET_LISTENER
from talking_portrait.core_models.video_diffusion.actalker.condition_projections import (
    AudioProjectionParameters,
    IdentityProjectionParameters,
    MotionProjectionParameters,
)
from talking_portrait.core_models.video_diffusion.actalker.guidance import GuidanceScales
from talking_portrait.core_models.video_diffusion.actalker.model import (
    ACTalkerModel,
    ACTalkerParameters,
    ClipDefaults,
    ListeningWindow,
)
from talking_portrait.core_models.video_diffusion.actalker.portrait_encoder import PortraitEncoderParameters
from talking_portrait.core_models.video_diffusion.actalker.pose_guider import PoseGuiderParameters
from talking_portrait.core_models.video_diffusion.actalker.unet import UNetParameters
from talking_portrait.core_models.video_types import BLENDSHAPE_MOTION

WIDTH = 16
SMALL_MODEL = ACTalkerParameters(
    unet=UNetParameters((32, 32), (2, 2), WIDTH, 8, layers=1),
    pose=PoseGuiderParameters(widths=(4, 8, 8), strides=(2, 2), channels=32),
    audio=AudioProjectionParameters(4, 2, 3, hidden=8, tokens=2, width=WIDTH),
    identity=IdentityProjectionParameters(8, hidden=8, width=WIDTH),
    motion=MotionProjectionParameters(58, 3, 3, WIDTH),
    portrait_encoder=PortraitEncoderParameters((4, 8), 8),
    listening=ListeningWindow(POCKET_LISTENER, 4, 1),
    motion_kind=BLENDSHAPE_MOTION,
    defaults=ClipDefaults(
        window=5,
        shift=2,
        steps=3,
        sigma_min=0.05,
        sigma_max=20.0,
        guidance=GuidanceScales(1.2, 2.0, 1.5),
        image_size=64,
    ),
)


def new_model(parameters=SMALL_MODEL, seed=0):
    """A model whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ACTalkerModel(parameters).eval().requires_grad_(False)
