"""Inverse propensities: how much one clicked exposure stands for. Shapes: B rows.

w = 1 / max(q, clip), with q = sigmoid(CTR logit) held constant: no gradient reaches the CTR tower through a weight, and
the weight of a row depends on that row alone (not on batch size, clicks in the batch or number of workers).
"""

from torch import Tensor

from data.errors import UserError

AUTO_CLIP_SHARE = 0.25
"""`clip: auto` = this share of the training part's click rate. A fixed 0.1 with a 4% click rate would flatten every
weight and undo the debiasing; see docs/log.md for the sweep behind the value."""


def resolve_clip(clip: float | str, click_rate: float) -> float:
    """The number behind `clip`; raises UserError unless it is in [0, 1) or "auto"."""
    if clip == "auto":
        return AUTO_CLIP_SHARE * click_rate
    if isinstance(clip, str) or not 0 <= clip < 1:
        raise UserError(f"objective.clip must be 'auto' or a probability in [0, 1), got {clip!r}")
    return float(clip)


def inverse_propensity(ctr_logit_B: Tensor, clip: float) -> Tensor:
    """1 / max(sigmoid(logit), clip), detached."""
    return 1.0 / ctr_logit_B.detach().sigmoid().clamp(min=max(clip, 1e-12))
