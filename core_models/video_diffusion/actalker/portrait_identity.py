"""Who a portrait shows, to a model: by face recognition as in the release, or by the model's own encoder."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from ...face.recognition import FaceRecognitionNetwork, identity_embedding, recognition_picture
from ...video_types import ARCFACE, Identity
from .model import ACTalkerModel, ACTalkerParameters
from .prepared_picture import cut_out, face_square


def recognised_identity(
    network: FaceRecognitionNetwork, frame: np.ndarray, landmarks: np.ndarray
) -> Identity:
    """Return the identity as ArcFace sees it, in the upright box of the landmarks, as the release's detector gives one.

    frame: (H, W, 3) uint8 RGB. landmarks: (K, 2 or more) pixels. Raises what `identity_embedding` raises.
    """
    box = landmark_box(landmarks)
    embedding = identity_embedding(network, frame, box)
    crop = recognition_picture(frame, box, network.parameters_used.picture_size)
    return Identity(embedding.numpy(), crop, ARCFACE)


def landmark_box(landmarks: np.ndarray) -> np.ndarray:
    """Return x, y, width and height in pixels of the upright box around landmarks (K, 2 or more)."""
    low, high = landmarks[:, :2].min(axis=0), landmarks[:, :2].max(axis=0)
    return np.concatenate([low, high - low])


@torch.no_grad()
def own_identity(model: ACTalkerModel, frame: np.ndarray, landmarks: np.ndarray, encoder: str) -> Identity:
    """Return the identity as a model trained here sees it: the picture framed around the face, at the model's size.

    frame: (H, W, 3) uint8 RGB. landmarks: (K, 2 or more) pixels. encoder: the name of the model, which the identity
    carries. Raises ValueError for a model that has no encoder of its own.
    """
    if model.portrait_encoder is None:
        raise ValueError(
            "this ACTalker has no portrait encoder of its own: it takes identities of face recognition"
        )
    size = model.parameters_used.defaults.image_size
    square = cut_out(frame, face_square(landmarks))
    shrinks = square.shape[0] > size
    crop = cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4)
    embedding = model.portrait_encoder(_network_picture(crop, next(model.portrait_encoder.parameters())))
    return Identity(embedding[0].float().cpu().numpy(), crop, encoder)


def _network_picture(picture: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(picture).to(like).permute(2, 0, 1)[None] / 127.5 - 1


def require_fitting_identity(parameters: ACTalkerParameters, identity: Identity, encoder: str) -> None:
    """Raise ValueError unless an identity comes from the encoder that a model was trained with."""
    features = parameters.identity.features
    if identity.encoder != encoder or len(identity.embedding) != features:
        raise ValueError(
            f"the model knows people by {encoder} ({features} numbers), but the identity is {identity.encoder} "
            f"({len(identity.embedding)}): make it with Identity Embedding and this model"
        )
