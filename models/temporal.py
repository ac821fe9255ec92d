"""The head that turns a sequence of image embeddings into one logit a frame, aware of time or not.

Shapes: B windows, T frames, E embedding length, H hidden width. Time enters as presentation time in seconds, through
sinusoids (Vaswani et al. 2017, arXiv:1706.03762) of periods from 0.25 s to 64 s, so that a variable frame rate is no
special case. The difference to the frame before is given beside each embedding: motion, at the price of one
subtraction. The classifier Linear-ReLU-Linear is that of HL-CLIP (Han et al. 2024, arXiv:2404.01745).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

TemporalKind = Literal["none", "transformer", "lstm", "multiscale"]
_SHORTEST_S, _LONGEST_S = 0.25, 64.0


def encode_time(times_s_BT: Tensor, width: int) -> Tensor:
    """Return [B, T, width] sinusoids of seconds since each window's first frame; width is even."""
    periods_s = torch.logspace(
        math.log10(_SHORTEST_S), math.log10(_LONGEST_S), width // 2, dtype=torch.float32, device=times_s_BT.device
    )
    phase = 2 * math.pi * (times_s_BT - times_s_BT[:, :1])[..., None] / periods_s
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


class HighlightHead(nn.Module):
    """Embeddings, times and a mask to logits.

    embed_dim:  E
    hidden_dim: H, width of the temporal encoder and of the classifier's hidden layer, a multiple of 8
    kind:       "none" judges each frame alone; "transformer" and "lstm" look both ways along the window
    """

    def __init__(
        self, embed_dim: int, hidden_dim: int, kind: TemporalKind, num_layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(embed_dim)
        width = embed_dim
        if kind != "none":
            self.mix = nn.Linear(2 * embed_dim, hidden_dim)
            width = hidden_dim
        if kind == "transformer":
            layer = nn.TransformerEncoderLayer(
                hidden_dim, nhead=4, dim_feedforward=2 * hidden_dim, dropout=dropout, batch_first=True, norm_first=True
            )
            self.encoder: nn.Module = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        elif kind == "lstm":
            self.encoder = nn.LSTM(hidden_dim, hidden_dim // 2, num_layers, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Sequential(nn.Linear(width, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, 1))

    def forward(self, features_BTE: Tensor, times_s_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return logits [B, T]; mask is True where a frame is real, padding stands at the end of a window."""
        x_BTE = self.norm(features_BTE)
        if self.kind == "none":
            return self.classifier(self.dropout(x_BTE)).squeeze(-1)  # type: ignore[no-any-return]
        motion_BTE = torch.diff(x_BTE, dim=1, prepend=x_BTE[:, :1])
        x_BTH = self.mix(torch.cat([x_BTE, motion_BTE], dim=-1))
        x_BTH = x_BTH + encode_time(times_s_BT, x_BTH.shape[-1])
        if self.kind == "transformer":
            x_BTH = self.encoder(x_BTH, src_key_padding_mask=~mask_BT)
        else:
            lengths = mask_BT.sum(dim=1).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(x_BTH, lengths, batch_first=True, enforce_sorted=False)
            x_BTH, _ = nn.utils.rnn.pad_packed_sequence(
                self.encoder(packed)[0], batch_first=True, total_length=mask_BT.shape[1]
            )
        return self.classifier(self.dropout(x_BTH)).squeeze(-1)  # type: ignore[no-any-return]
