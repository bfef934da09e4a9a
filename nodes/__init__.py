"""The graph's face: one file per building block; this table is the whole node list.

Nothing here imports torch: heavy modules are imported inside the nodes' methods.
"""

from .actalker import ACTalkerDecode, ACTalkerSampler, LoadACTalker
from .audio import AudioEmbedding, MatchAudioToFrames
from .emotion import EmotionCondition, EmotionFromFace, EmotionOffset, EmotionSweep
from .expression import ExpressionEditor
from .face import LoadFaceDetector, MakePortrait, PasteBack
from .face_masks import FaceMaskBuilder
from .fantasytalking import FantasyTalkingDecode, FantasyTalkingSampler
from .fantasytalking_core import (
    FantasyTalkingForWan,
    FantasyTalkingGuider,
    LoadFantasyTalkingAdapter,
    WanSigmas,
)
from .fantasytalking_loaders import LoadFantasyTalking, LoadWan, WanLoRA
from .frame_grid import FrameGrid
from .identity_and_motion import IdentityEmbedding, MotionEmbedding
from .inputs import LoadDrivingVideo, LoadPortraitImage, LoadSpeech
from .keypoint_diffusion import KDTalkerOptionsNode, KeypointDiffusionSampler, LoadKeypointDiffusion
from .liveportrait import LoadLivePortrait, RetargetMotion, Stitch
from .masked_control import GateSweep, MaskedSSMController
from .motion import AdjustMotion, JoinMotion, MixMotion, ResampleMotion, SliceMotion
from .motion_intensity import ChooseMotionIntensity, MotionIntensityFromVideo, MotionIntensitySweep
from .motion_sources import MotionFromCSV, MotionFromVideo, SaveMotionCSV
from .portrait_video import MakePortraitVideo
from .rendering import RenderTalkingVideo, WarpingRenderer

_NODES: tuple[tuple[str, type, str], ...] = (
    ("TP_LoadPortraitImage", LoadPortraitImage, "Load Portrait Image"),
    ("TP_LoadSpeech", LoadSpeech, "Load Speech"),
    ("TP_LoadDrivingVideo", LoadDrivingVideo, "Load Driving Video"),
    ("TP_LoadFaceDetector", LoadFaceDetector, "Load Face Detector"),
    ("TP_Portrait", MakePortrait, "Portrait"),
    ("TP_PortraitVideo", MakePortraitVideo, "Portrait Video"),
    ("TP_FaceMaskBuilder", FaceMaskBuilder, "Face-Mask Builder"),
    ("TP_PasteBack", PasteBack, "Paste Back"),
    ("TP_AudioEmbedding", AudioEmbedding, "Audio Embedding"),
    ("TP_MatchAudioToFrames", MatchAudioToFrames, "Match Audio to Frames"),
    ("TP_EmotionCondition", EmotionCondition, "Emotion Condition"),
    ("TP_EmotionSweep", EmotionSweep, "Emotion Sweep"),
    ("TP_EmotionFromFace", EmotionFromFace, "Emotion from Face"),
    ("TP_EmotionOffset", EmotionOffset, "Emotion Offset"),
    ("TP_LoadKeypointDiffusion", LoadKeypointDiffusion, "Load Keypoint Diffusion"),
    ("TP_KeypointDiffusionSampler", KeypointDiffusionSampler, "Keypoint Diffusion Sampler"),
    ("TP_KDTalkerOptions", KDTalkerOptionsNode, "KDTalker Options"),
    ("TP_LoadACTalker", LoadACTalker, "Load ACTalker"),
    ("TP_IdentityEmbedding", IdentityEmbedding, "Identity Embedding"),
    ("TP_MotionEmbedding", MotionEmbedding, "Motion Embedding"),
    ("TP_MaskedSSMController", MaskedSSMController, "Masked SSM Controller"),
    ("TP_GateSweep", GateSweep, "Gate Sweep"),
    ("TP_ACTalkerSampler", ACTalkerSampler, "ACTalker Sampler"),
    ("TP_ACTalkerDecode", ACTalkerDecode, "ACTalker Decode"),
    ("TP_LoadWan", LoadWan, "Load Wan"),
    ("TP_WanLoRA", WanLoRA, "Wan LoRA"),
    ("TP_LoadFantasyTalking", LoadFantasyTalking, "Load FantasyTalking"),
    ("TP_MotionIntensity", ChooseMotionIntensity, "Motion Intensity"),
    ("TP_MotionIntensitySweep", MotionIntensitySweep, "Motion Intensity Sweep"),
    ("TP_MotionIntensityFromVideo", MotionIntensityFromVideo, "Motion Intensity from Video"),
    ("TP_FantasyTalkingSampler", FantasyTalkingSampler, "FantasyTalking Sampler"),
    ("TP_FantasyTalkingDecode", FantasyTalkingDecode, "FantasyTalking Decode"),
    ("TP_LoadFantasyTalkingAdapter", LoadFantasyTalkingAdapter, "Load FantasyTalking Adapter"),
    ("TP_FantasyTalkingForWan", FantasyTalkingForWan, "FantasyTalking for Wan"),
    ("TP_FantasyTalkingGuider", FantasyTalkingGuider, "FantasyTalking Guider"),
    ("TP_WanSigmas", WanSigmas, "Wan Sigmas"),
    ("TP_MotionFromVideo", MotionFromVideo, "Motion from Video"),
    ("TP_MotionFromCSV", MotionFromCSV, "Motion from CSV"),
    ("TP_SaveMotionCSV", SaveMotionCSV, "Save Motion as CSV"),
    ("TP_MixMotion", MixMotion, "Region Mixer"),
    ("TP_ExpressionEditor", ExpressionEditor, "Expression Editor"),
    ("TP_AdjustMotion", AdjustMotion, "Adjust Motion"),
    ("TP_ResampleMotion", ResampleMotion, "Resample Motion"),
    ("TP_SliceMotion", SliceMotion, "Slice Motion"),
    ("TP_JoinMotion", JoinMotion, "Join Motion"),
    ("TP_LoadLivePortrait", LoadLivePortrait, "Load LivePortrait"),
    ("TP_RetargetMotion", RetargetMotion, "Retarget Motion"),
    ("TP_Stitch", Stitch, "Stitch"),
    ("TP_WarpingRenderer", WarpingRenderer, "Warping Renderer"),
    ("TP_FrameGrid", FrameGrid, "Frame Grid"),
    ("TP_RenderTalkingVideo", RenderTalkingVideo, "Render Talking Video"),
)

NODE_CLASS_MAPPINGS: dict[str, type] = {node_id: node for node_id, node, _ in _NODES}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {node_id: name for node_id, _, name in _NODES}
