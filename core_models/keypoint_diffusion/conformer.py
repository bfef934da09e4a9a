"""The conformer of Takin-ADA's second stage: its speech encoder and its motion generator.

Block: half feed-forward, relative-position attention, convolution module, half feed-forward; post-norm. Sources:
Conformer (arXiv 2005.08100); attention of Transformer-XL (arXiv 1901.02860, section 3.3 and appendix B); the
arrangement is ESPnet's with `normalize_before=False`; the sizes are AniTalker's (arXiv 2405.03121), whose stage 2
Takin-ADA (arXiv 2410.14283) describes in the same terms.

Ours, because none that exists fits unbent: ESPnet would bring a whole toolkit; torchaudio's knows no relative
positions; those of transformers are pre-norm, but for FastSpeech2Conformer's, whose attention refuses a window, whose
convolution lets padding in and cannot be causal, and whose feed-forward is a ReLU. With those parts made equal a
test holds our block to that one's numbers.

One departure from ESPnet: layer norm inside the convolution module where it has batch norm. Statistics of a batch
would mix in padding and other clips while training and differ from those of inference; group norm would look along
time. Layer norm sees one frame: a stream, a clip and a padded batch compute the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSITION_BASE = 10000.0
"""Base of the sinusoids' wavelengths."""
FEED_FORWARD_SHARE = 0.5
"""Of each of the two feed-forwards in the residual stream (macaron)."""


@dataclass(frozen=True)
class ConformerParameters:
    """Sizes of a conformer; the defaults describe the speech encoder.

    width: of a frame. expansion: feed-forward width / width. kernel: of the depthwise convolution, in frames, odd.
    dropout: of residuals, feed-forwards, positions and attention alike.
    look_ahead, look_back: frames after and before its own that a frame attends to, in every block; None is all.
    causal_convolution: the kernel covers the frame and those before it, instead of being centred.
    The last three change no weight: a state dict fits whatever they are. Raises ValueError for impossible sizes.
    """

    width: int = 512
    blocks: int = 4
    heads: int = 2
    expansion: int = 1
    kernel: int = 13
    dropout: float = 0.2
    look_ahead: int | None = None
    look_back: int | None = None
    causal_convolution: bool = False

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "heads", "expansion", "kernel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.width % 2 or self.width % self.heads:
            raise ValueError(f"width {self.width} must be even and divide into {self.heads} heads")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}, expected an odd number of frames")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}, expected 0 <= dropout < 1")
        for name in ("look_ahead", "look_back"):
            frames = getattr(self, name)
            if frames is not None and frames < 0:
                raise ValueError(f"{name} is {frames}, expected None or a number of frames >= 0")

    @property
    def convolution_reach(self) -> tuple[int, int]:
        """Frames before and after its own that one convolution hears."""
        half = self.kernel // 2
        return (self.kernel - 1, 0) if self.causal_convolution else (half, half)

    @property
    def frames_ahead(self) -> int | None:
        """Frames of input after its own that an output depends on: blocks * (look_ahead + convolution's).

        None where the attention is not bounded. A stream delays its output by this many frames.
        """
        return (
            None if self.look_ahead is None else self.blocks * (self.look_ahead + self.convolution_reach[1])
        )

    @property
    def frames_behind(self) -> int | None:
        """Frames of input before its own that an output depends on: blocks * (look_back + convolution's), or None.

        A stream keeps this many frames.
        """
        return None if self.look_back is None else self.blocks * (self.look_back + self.convolution_reach[0])


SPEECH_ENCODER = ConformerParameters()
"""Takin-ADA's speech encoder, over HuBERT's features at 25 Hz."""
MOTION_GENERATOR = ConformerParameters(width=1024, blocks=8)
"""Takin-ADA's motion generator, over a frame's speech, start, noisy motion and time."""


def relative_shift(scores: Tensor, keys: int | None = None) -> Tensor:
    """Return (..., Q, K), the score of every query-key pair, of scores (..., Q, Q + K - 1) of every query-distance
    pair.

    The queries are the last Q of K frames; keys: K, without which there are as many as queries. Column c of the input
    stands for the distance i - j = K - 1 - c of query i from key j. The shift of Transformer-XL's appendix B, over both
    directions: one column of padding makes each row start one later.
    """
    *leading, queries, distances = scores.shape
    padded = F.pad(scores, (1, 0)).reshape(*leading, distances + 1, queries)
    shifted = padded[..., 1:, :].reshape(*leading, queries, distances)
    return shifted[..., : queries if keys is None else keys]


def attention_window(
    length: int, look_ahead: int | None, look_back: int | None, device: torch.device | None = None
) -> Tensor | None:
    """Return bool (T, T), True where query i may attend to key j: i - look_back <= j <= i + look_ahead.

    None where neither is bounded.
    """
    if look_ahead is None and look_back is None:
        return None
    allowed = torch.ones(length, length, dtype=torch.bool, device=device)
    if look_ahead is not None:
        allowed = allowed.tril(look_ahead)
    return allowed if look_back is None else allowed.triu(-look_back)


class RelativePositions(nn.Module):
    """Sinusoids of every distance of a query from a key, in both directions. No parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, length: int, device: torch.device | None = None, queries: int | None = None) -> Tensor:
        """Return (T + Q - 1, width) float32 for the distances i - j from T - 1 (key first) down to 1 - Q.

        queries: Q, of which the last of T frames are; None is all of them. Numbers 2k and 2k + 1 are sine and cosine of
        distance * 10000^(-2k / width).
        """
        queries = length if queries is None else queries
        distances = torch.arange(length - 1, -queries, -1, dtype=torch.float32, device=device)
        exponents = torch.arange(0, self.width, 2, dtype=torch.float32, device=device) / self.width
        angles = distances[:, None] * torch.exp(-math.log(POSITION_BASE) * exponents)
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class RelativeAttention(nn.Module):
    """Self-attention whose scores are ((q_i + u) . k_j + (q_i + v) . W r_(i-j)) / sqrt(head size).

    Transformer-XL's four terms; u and v are learned for each head.
    """

    def __init__(self, parameters: ConformerParameters) -> None:
        super().__init__()
        width = parameters.width
        self.heads, self.head_size = parameters.heads, width // parameters.heads
        self.dropout = parameters.dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.position = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width)
        self.content_bias = nn.Parameter(torch.empty(self.heads, self.head_size))
        self.position_bias = nn.Parameter(torch.empty(self.heads, self.head_size))
        nn.init.xavier_uniform_(self.content_bias)
        nn.init.xavier_uniform_(self.position_bias)

    def forward(self, x: Tensor, positions: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Return (B, T, width).

        x: (B, T, width). positions: (2T - 1, width), see `RelativePositions`. allowed: bool, broadcastable to
        (B, heads, T, T), True where a query may attend; every query needs one key at least.
        """
        return self.attend(x, *self.keys_and_values(x), positions, allowed)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what frames (B, T, width) are to those that attend to them, (B, heads, T, head size) each."""
        shape = (*x.shape[:2], self.heads, self.head_size)
        return self.key(x).view(shape).transpose(1, 2), self.value(x).view(shape).transpose(1, 2)

    def attend(
        self, x: Tensor, key: Tensor, value: Tensor, positions: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """Return (B, Q, width) for the last Q of K frames, x (B, Q, width), over the keys and values of all K.

        positions: (Q + K - 1, width). allowed: broadcastable to (B, heads, Q, K).
        """
        query = self.query(x).view(*x.shape[:2], self.heads, self.head_size)
        distance_keys = self.position(positions).view(-1, self.heads, self.head_size).permute(1, 2, 0)
        scale = self.head_size**-0.5
        by_content = (query + self.content_bias).transpose(1, 2)
        by_position = (query + self.position_bias).transpose(1, 2) * scale
        bias = relative_shift(by_position @ distance_keys, key.shape[2])
        if allowed is not None:
            bias = bias.masked_fill(~allowed, -math.inf)
        out = F.scaled_dot_product_attention(
            by_content.to(value.dtype),
            key,
            value,
            attn_mask=bias.to(value.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            scale=scale,
        )
        return self.output(out.transpose(1, 2).flatten(2))


class ConvolutionModule(nn.Module):
    """Pointwise with gate, depthwise along time, layer norm (see the file's head), swish, pointwise."""

    def __init__(self, parameters: ConformerParameters) -> None:
        super().__init__()
        width = parameters.width
        self.reach = parameters.convolution_reach
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, parameters.kernel, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pointwise = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x: (B, T, width) -> (B, T, width). valid: bool (B, T); frames that are not are silence to the rest."""
        x = self.gated(x)
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        return self.convolved(F.pad(x, (0, 0, *self.reach)))

    def gated(self, x: Tensor) -> Tensor:
        """Return what the convolution along time sees of frames (B, T, width)."""
        return F.glu(self.gate(x), dim=-1)

    def convolved(self, gated: Tensor) -> Tensor:
        """Return (B, T, width) of gated frames (B, T + kernel - 1, width): those of either side included."""
        x = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.pointwise(F.silu(self.norm(x)))


class FeedForward(nn.Sequential):
    """Linear, swish, dropout, linear; (B, T, width) -> (B, T, width)."""

    def __init__(self, parameters: ConformerParameters) -> None:
        inner = parameters.width * parameters.expansion
        super().__init__(
            nn.Linear(parameters.width, inner),
            nn.SiLU(),
            nn.Dropout(parameters.dropout),
            nn.Linear(inner, parameters.width),
        )


class ConformerBlock(nn.Module):
    """Four post-normed residual parts and a closing norm, in ESPnet's order."""

    def __init__(self, parameters: ConformerParameters) -> None:
        super().__init__()
        width = parameters.width
        self.first_feed_forward = FeedForward(parameters)
        self.first_feed_forward_norm = nn.LayerNorm(width)
        self.attention = RelativeAttention(parameters)
        self.attention_norm = nn.LayerNorm(width)
        self.convolution = ConvolutionModule(parameters)
        self.convolution_norm = nn.LayerNorm(width)
        self.second_feed_forward = FeedForward(parameters)
        self.second_feed_forward_norm = nn.LayerNorm(width)
        self.final_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(parameters.dropout)

    def forward(
        self, x: Tensor, positions: Tensor, allowed: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """x: (B, T, width) -> (B, T, width). The rest: see `RelativeAttention` and `ConvolutionModule`."""
        x = self.before_attention(x)
        x = self.attention_norm(x + self.dropout(self.attention(x, positions, allowed)))
        x = self.convolution_norm(x + self.dropout(self.convolution(x, valid)))
        return self.after_convolution(x)

    def before_attention(self, x: Tensor) -> Tensor:
        """The first half feed-forward, frame by frame."""
        inner = self.dropout(self.first_feed_forward(x))
        return self.first_feed_forward_norm(x + FEED_FORWARD_SHARE * inner)

    def after_convolution(self, x: Tensor) -> Tensor:
        """The second half feed-forward and the closing norm, frame by frame."""
        inner = self.dropout(self.second_feed_forward(x))
        return self.final_norm(self.second_feed_forward_norm(x + FEED_FORWARD_SHARE * inner))


class Conformer(nn.Module):
    """A stack of conformer blocks over frames; any number of frames.

    As in ESPnet the input is scaled by sqrt(width), and no norm follows the last block's own.
    """

    def __init__(self, parameters: ConformerParameters) -> None:
        super().__init__()
        self.parameters_used = parameters
        self.positions = RelativePositions(parameters.width)
        self.dropout = nn.Dropout(parameters.dropout)
        self.blocks = nn.ModuleList(ConformerBlock(parameters) for _ in range(parameters.blocks))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Return (B, T, width) of x's floating dtype, zeros where not valid.

        x: (B, T, width), T >= 1. valid: bool (B, T), False for padding, which changes no valid frame whatever it
        holds; None: all. Output t depends on inputs t - frames_behind .. t + frames_ahead (`ConformerParameters`).
        Raises ValueError for another shape, or a mask of another shape or dtype.
        """
        p = self.parameters_used
        if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != p.width:
            raise ValueError(f"frames have shape {tuple(x.shape)}, expected (B, T >= 1, {p.width})")
        if valid is not None and (valid.shape != x.shape[:2] or valid.dtype != torch.bool):
            raise ValueError(
                f"valid is {valid.dtype} {tuple(valid.shape)}, expected torch.bool {tuple(x.shape[:2])}"
            )
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0.0)
        length = x.shape[1]
        positions = self.dropout(self.positions(length, x.device).to(x.dtype))
        allowed = self.attended(length, valid, x.device)
        x = self.dropout(x * math.sqrt(p.width))
        for block in self.blocks:
            x = block(x, positions, allowed, valid)
        return x if valid is None else x.masked_fill(~valid[..., None], 0.0)

    def attended(self, length: int, valid: Tensor | None, device: torch.device) -> Tensor | None:
        """Return bool (1 or B, 1, T, T), True where a query may attend, or None where it may everywhere.

        A frame always attends to itself: a query of padding with no valid key near would have no finite scores.
        """
        window = attention_window(
            length, self.parameters_used.look_ahead, self.parameters_used.look_back, device
        )
        if valid is None:
            return None if window is None else window[None, None]
        itself = torch.eye(length, dtype=torch.bool, device=device)
        keys = valid[:, None, None, :]
        return (keys if window is None else keys & window) | itself
