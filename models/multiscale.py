"""A head for few videos: embeddings reduced, looked at over several spans of time, judged by a committee.

A transformer over embeddings of a thousand dimensions learns 30 videos by heart. This head has little to learn: the
principal components of the train embeddings are fixed before training (`fit_basis`), every frame is described by them
at three spans of time, beside how much the picture changes around it and where it stands, and a committee of small
perceptrons, each with its own start and dropout, is averaged.

Shapes: B windows, T frames, E embedding length, K components of the picture, C components of its change, F features of
a frame, M members of the committee, H hidden width. Spans of time are in seconds of presentation, so that a variable
frame rate is no special case. Knows windows, not videos: in a video longer than the window, position is position in
the window.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Half widths of the spans that a frame is described at, seconds: the shot it is in, the scene, part of the film.
RADII_S = (1.0, 7.0, 20.0)
_FADES_S = (10.0, 40.0)  # how fast the nearness of the window's two ends fades
_NUM_POSITIONS = 2 + 2 * len(_FADES_S)
_INPUT_NOISE, _INPUT_DROPOUT, _HIDDEN_DROPOUT = 0.3, 0.2, 0.5
_LARGEST = 4.0  # features are cut at so many standard deviations
_SMALLEST_DEVIATION = 0.02  # of motion and position: one that is the same everywhere is not to be blown up
# Weights of the groups of features: what is seen, its surroundings (two of them), its change, motion and position.
_GROUP_WEIGHTS = (1.0, 0.7, 0.7, 0.7, 0.5, 0.3)


class RunningSums:
    """Sums over the frames of each window, from which the mean around every frame is two look-ups.

    x_BTD:      what is averaged
    times_s_BT: seconds, rising within each window
    mask_BT:    True where a frame is real, padding at the end
    """

    def __init__(self, x_BTD: Tensor, times_s_BT: Tensor, mask_BT: Tensor) -> None:
        weight_BT1 = mask_BT[..., None].to(x_BTD.dtype)
        sums = torch.cumsum(torch.cat([x_BTD * weight_BT1, weight_BT1], dim=-1), dim=1)
        self.sums_BTD = nn.functional.pad(sums, (0, 0, 1, 0))
        self.times_s_BT = times_s_BT

    def mean_around(self, radius_s: float) -> Tensor:
        """Return [B, T, D]: the mean over the real frames at most `radius_s` seconds away, the frame itself too."""
        last_BT = torch.searchsorted(self.times_s_BT, self.times_s_BT + radius_s, right=True)
        first_BT = torch.searchsorted(self.times_s_BT, self.times_s_BT - radius_s, right=False)
        total_BTD = self._up_to(last_BT) - self._up_to(first_BT)
        return total_BTD[..., :-1] / total_BTD[..., -1:].clamp_min(1.0)

    def _up_to(self, index_BT: Tensor) -> Tensor:
        return torch.stack([sums_TD[index_T] for sums_TD, index_T in zip(self.sums_BTD, index_BT, strict=True)])


def mean_around(x_BTD: Tensor, times_s_BT: Tensor, mask_BT: Tensor, radius_s: float) -> Tensor:
    """Return [B, T, D]: the mean around each frame, see RunningSums."""
    return RunningSums(x_BTD, times_s_BT, mask_BT).mean_around(radius_s)


def _standardised(x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return x with mean 0 and deviation 1 over the real frames of each window."""
    weight_BT1 = mask_BT[..., None].to(x_BTD.dtype)
    count_B11 = weight_BT1.sum(dim=1, keepdim=True).clamp_min(1.0)
    centred = (x_BTD - (x_BTD * weight_BT1).sum(dim=1, keepdim=True) / count_B11) * weight_BT1
    deviation_B1D = ((centred**2).sum(dim=1, keepdim=True) / count_B11).sqrt()
    return centred / (deviation_B1D + 1e-6)


class MultiScaleHead(nn.Module):
    """Embeddings, times and a mask to logits, as `models.temporal.HighlightHead`.

    embed_dim:   E
    hidden_dim:  H, and K; C is half of it
    num_members: M, at least 1
    """

    picture_EK: Tensor
    change_EC: Tensor
    mean_E: Tensor
    change_mean_E: Tensor
    scale_F: Tensor
    shift_F: Tensor

    def __init__(self, embed_dim: int, hidden_dim: int, num_members: int) -> None:
        super().__init__()
        self.num_picture, self.num_change = min(hidden_dim, embed_dim), min(hidden_dim // 2, embed_dim)
        self.sizes = (*[self.num_picture] * 3, self.num_change, 2 * len(RADII_S), _NUM_POSITIONS)
        width = sum(self.sizes)
        self.register_buffer("picture_EK", torch.eye(embed_dim, self.num_picture))
        self.register_buffer("change_EC", torch.eye(embed_dim, self.num_change))
        self.register_buffer("mean_E", torch.zeros(embed_dim))
        self.register_buffer("change_mean_E", torch.zeros(embed_dim))
        self.register_buffer("scale_F", torch.ones(width))
        self.register_buffer("shift_F", torch.zeros(width))
        self.inner_MFH = nn.Parameter(torch.randn(num_members, width, hidden_dim) / width**0.5)
        self.inner_M1H = nn.Parameter(torch.zeros(num_members, 1, hidden_dim))
        self.outer_MH1 = nn.Parameter(torch.randn(num_members, hidden_dim, 1) / hidden_dim**0.5)
        self.bias_1 = nn.Parameter(torch.zeros(1))

    @torch.no_grad()
    def fit_basis(self, videos: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Settle components and scales by the train videos.

        videos: embeddings [T, E] and seconds [T] of each, at least one
        """
        units = ((nn.functional.normalize(x_TE.float(), dim=-1), t_T) for x_TE, t_T in videos)
        described = [self._seen(unit_TE[None], t_T[None].float(), _all_real(t_T)) for unit_TE, t_T in units]
        for name, mean, parts in (
            ("picture_EK", self.mean_E, [picture_1TE[0] for picture_1TE, _, _ in described]),
            ("change_EC", self.change_mean_E, [change_1TE[0] for _, change_1TE, _ in described]),
        ):
            rows_NE = torch.cat(parts).double()
            mean.copy_(rows_NE.mean(dim=0))
            basis = getattr(self, name)
            centred = rows_NE - rows_NE.mean(dim=0)
            _, vectors_EE = torch.linalg.eigh(centred.T @ centred)
            vectors_EK = vectors_EE[:, -basis.shape[1] :].flip(1)
            # An eigenvector's sign is arbitrary; its largest entry is made positive, so that two runs agree.
            largest_K = vectors_EK.gather(0, vectors_EK.abs().argmax(dim=0, keepdim=True))
            basis.copy_(vectors_EK * largest_K.sign())
        rows_NF = torch.cat([self._measured(x[None], t[None].float(), _all_real(t))[0] for x, t in videos])
        means, scales = [], []
        for index, part_ND in enumerate(torch.split(rows_NF, list(self.sizes), dim=1)):
            is_components = index < 4  # one scale for all: small components are small for a reason
            deviation = part_ND.std() if is_components else part_ND.std(dim=0).clamp_min(_SMALLEST_DEVIATION)
            means.append(part_ND.mean(dim=0))
            scales.append((deviation + 1e-6).expand(part_ND.shape[1]))
        self.shift_F.copy_(torch.cat(means))
        self.scale_F.copy_(torch.cat(scales))

    def _seen(self, unit_BTE: Tensor, times_s_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return picture and change around each frame, of unit length, and the distance to the surroundings.

        unit_BTE: embeddings of unit length
        [B, T, E], [B, T, E] and [B, T, 1]
        """
        sums = RunningSums(torch.cat([unit_BTE, unit_BTE**2], dim=-1), times_s_BT, mask_BT)
        around_BTE, squares_BTE = sums.mean_around(RADII_S[0]).tensor_split(2, dim=-1)
        spread_BTE = (squares_BTE - around_BTE**2).clamp_min(0).sqrt()
        near_BTE = sums.mean_around(2 * RADII_S[0])[..., : unit_BTE.shape[-1]]
        away_BT1 = (unit_BTE - near_BTE).square().sum(dim=-1, keepdim=True)
        normalize = nn.functional.normalize
        return normalize(around_BTE, dim=-1), normalize(spread_BTE, dim=-1), away_BT1

    def _measured(self, x_BTE: Tensor, times_s_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the features of each frame [B, T, F] as they are measured, group after group."""
        unit_BTE = nn.functional.normalize(x_BTE.float(), dim=-1)
        picture_BTE, change_BTE, away_BT1 = self._seen(unit_BTE, times_s_BT, mask_BT)
        seen_BTK = (picture_BTE - self.mean_E) @ self.picture_EK
        weight_BT1 = mask_BT[..., None].to(seen_BTK.dtype)
        whole_B1K = (seen_BTK * weight_BT1).sum(dim=1, keepdim=True) / weight_BT1.sum(dim=1, keepdim=True)
        step_BT1 = torch.diff(unit_BTE, dim=1, prepend=unit_BTE[:, :1]).square().sum(dim=-1, keepdim=True)
        motion_BT2 = _standardised(torch.log1p(100 * torch.cat([step_BT1, away_BT1], dim=-1)), mask_BT)
        motion = RunningSums(motion_BT2, times_s_BT, mask_BT)
        parts = (
            seen_BTK,
            mean_around(seen_BTK, times_s_BT, mask_BT, RADII_S[1]),
            whole_B1K.expand_as(seen_BTK),
            (change_BTE - self.change_mean_E) @ self.change_EC,
            torch.cat([motion.mean_around(radius) for radius in RADII_S], dim=-1),
            _positions(times_s_BT, mask_BT),
        )
        return torch.cat(parts, dim=-1)

    def describe(self, x_BTE: Tensor, times_s_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the features of each frame [B, T, F], standardised, cut and weighted by group, nothing learnt."""
        standard_BTF = (self._measured(x_BTE, times_s_BT.contiguous(), mask_BT) - self.shift_F) / self.scale_F
        weight_F = torch.cat(
            [standard_BTF.new_full((size,), weight) for size, weight in zip(self.sizes, _GROUP_WEIGHTS, strict=True)]
        )
        return standard_BTF.clamp(-_LARGEST, _LARGEST) * weight_F

    def forward(self, features_BTE: Tensor, times_s_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return logits [B, T], see `judge`."""
        with torch.no_grad() if not features_BTE.requires_grad else contextlib.nullcontext():
            described_BTF = self.describe(features_BTE, times_s_BT, mask_BT)
        return self.judge(described_BTF)

    def judge(self, described_BTF: Tensor) -> Tensor:
        """Return logits [B, T] of described frames, the members' mean.

        In training the members' own, [M * B, T], one member's windows after the other's: each has noise and dropout of
        its own and is held against the truth by itself.
        """
        x_NF = described_BTF.flatten(0, 1)
        inner_MFH: Tensor = self.inner_MFH
        outer_MH1: Tensor = self.outer_MH1
        if self.training:
            # Dropping a feature or a hidden unit is dropping its weights; the noise is the committee's.
            x_NF = x_NF + _INPUT_NOISE * torch.randn_like(x_NF)
            inner_MFH = inner_MFH * _kept(inner_MFH[..., :1], _INPUT_DROPOUT)
            outer_MH1 = outer_MH1 * _kept(outer_MH1, _HIDDEN_DROPOUT)
        hidden_MNH = nn.functional.gelu(x_NF @ inner_MFH + self.inner_M1H)
        votes_MBT = torch.unflatten((hidden_MNH @ outer_MH1).squeeze(-1), 1, described_BTF.shape[:2])
        logits: Tensor = self.bias_1 + (votes_MBT.flatten(0, 1) if self.training else votes_MBT.mean(dim=0))
        return logits


def _kept(like: Tensor, dropped: float) -> Tensor:
    """Return 0 for the share `dropped` that is dropped, else what keeps the mean."""
    return (torch.rand_like(like) > dropped) / (1 - dropped)


def _all_real(times_s_T: Tensor) -> Tensor:
    return torch.ones(1, len(times_s_T), dtype=torch.bool, device=times_s_T.device)


def _positions(times_s_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return [B, T, P]: share of the window that has passed and its square, and the nearness of start and end."""
    start_B1 = times_s_BT[:, :1]
    end_B1 = torch.where(mask_BT, times_s_BT, start_B1).amax(dim=1, keepdim=True)
    passed_BT = (times_s_BT - start_B1) / (end_B1 - start_B1).clamp_min(1e-6)
    fades = [torch.exp(-(gap / fade_s)) for fade_s in _FADES_S for gap in (times_s_BT - start_B1, end_B1 - times_s_BT)]
    return torch.stack([passed_BT, passed_BT**2, *fades], dim=-1)
