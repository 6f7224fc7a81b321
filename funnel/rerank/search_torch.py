"""search.py in torch, operation for operation: the same items, values and counts, on any device and beside a network
without leaving it. Shapes: search.py."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import UserError
from funnel.rerank.list_value import Chances, Scorer, SearchSettings
from funnel.rerank.search import NOTHING

OUT = -torch.inf


@dataclass(frozen=True)
class TorchBounds:
    """limits.py: Bounds, int64."""

    group_RM: Tensor
    low_RG: Tensor
    high_RG: Tensor

    def cut(self, row_R: Tensor) -> "TorchBounds":
        return TorchBounds(self.group_RM[row_R], self.low_RG[row_R], self.high_RG[row_R])


@dataclass(frozen=True)
class TorchFound:
    """search.py: Found."""

    first_R: Tensor
    value_R: Tensor
    steps_R: Tensor
    evaluations_R: Tensor
    list_RL: Tensor


@torch.no_grad()
def search(
    scorer: Scorer, left_RM: Tensor, settings: SearchSettings, places: int, bounds: TorchBounds | None = None
) -> TorchFound:
    """As search.py: search, of tensors."""
    rows, device = len(left_RM), left_RM.device
    if settings.method == "pointwise":
        return by_score(scorer, left_RM, settings, places, bounds)
    width = 1 if settings.method == "greedy" else settings.k
    most = 1 if settings.method == "greedy" else min(settings.horizon, places)
    steps_R = torch.zeros(rows, dtype=torch.int64, device=device)
    evaluations_R = torch.zeros_like(steps_R)
    best_RL = torch.full((rows, most), NOTHING, device=device)
    value_R = torch.zeros(rows, dtype=torch.float64, device=device)
    row_R = torch.arange(rows, device=device)
    prefix_RKL = torch.zeros((rows, 1, 0), dtype=torch.int64, device=device)
    sum_RK, reached_RK = torch.zeros((rows, 1), device=device), torch.ones((rows, 1), device=device)
    free_RKM = left_RM[:, None]
    used_RKG = None if bounds is None else torch.zeros_like(bounds.low_RG)[:, None]
    led_R = torch.full((rows,), NOTHING, device=device)
    for step in range(most):
        chances = checked(scorer(row_R, prefix_RKL))
        evaluations_R[row_R] += free_RKM.sum((1, 2))
        may_RKM = free_RKM
        if bounds is not None and used_RKG is not None:
            may_RKM = free_RKM & allowed(bounds.cut(row_R), used_RKG, places - step)
        gain_RKM = settings.alpha * chances.view + settings.beta * chances.like
        total_RKM = torch.where(may_RKM, sum_RK[:, :, None] + reached_RK[:, :, None] * gain_RKM, OUT)
        candidates, total_RB = total_RKM.shape[2], total_RKM.reshape(len(row_R), -1)
        kept_RK = torch.sort(total_RB, dim=1, descending=True, stable=True).indices[:, :width]
        value_RK = total_RB.gather(1, kept_RK)
        on_R = value_RK[:, 0] > OUT
        from_RK, item_RK = kept_RK // candidates, kept_RK % candidates
        before_RKL = prefix_RKL.gather(1, from_RK[:, :, None].expand(-1, -1, step))
        prefix_RKL = torch.cat([before_RKL, item_RK[:, :, None]], 2)
        best_RL[row_R[on_R], : step + 1] = prefix_RKL[on_R, 0]
        value_R[row_R[on_R]] = value_RK[on_R, 0].double()
        steps_R[row_R[on_R]] = step + 1
        if settings.method == "adaptive":
            on_R = on_R & ~ended(value_RK, prefix_RKL[:, :, 0], led_R[row_R], settings)
            led_R[row_R] = prefix_RKL[:, 0, 0]
        if step + 1 == most or not bool(on_R.any()):
            break
        reached_RK = reached_RK.gather(1, from_RK) * chances.next.reshape(len(row_R), -1).gather(1, kept_RK)
        free_RKM = free_RKM.gather(1, from_RK[:, :, None].expand(-1, -1, candidates))
        free_RKM = free_RKM.scatter(2, item_RK[:, :, None], False) & (value_RK > OUT)[:, :, None]
        if bounds is not None and used_RKG is not None:
            before_RKG = used_RKG.gather(1, from_RK[:, :, None].expand(-1, -1, used_RKG.shape[2]))
            used_RKG = counted(bounds.cut(row_R), before_RKG, item_RK)[on_R]
        sum_RK = torch.where(value_RK > OUT, value_RK, 0.0)[on_R]
        row_R, prefix_RKL, reached_RK, free_RKM = row_R[on_R], prefix_RKL[on_R], reached_RK[on_R], free_RKM[on_R]
    return TorchFound(best_RL[:, 0], value_R, steps_R, evaluations_R, best_RL)


def by_score(
    scorer: Scorer, left_RM: Tensor, settings: SearchSettings, places: int, bounds: TorchBounds | None
) -> TorchFound:
    """As search.py: by_score."""
    chances = checked(scorer.alone(torch.arange(len(left_RM), device=left_RM.device)))
    may_RM = left_RM
    if bounds is not None:
        may_RM = left_RM & allowed(bounds, torch.zeros_like(bounds.low_RG)[:, None], places)[:, 0]
    total_RM = torch.where(may_RM, settings.alpha * chances.view + settings.beta * chances.like, OUT)
    # The first of equal ones: argmax promises no order.
    first_R = torch.sort(total_RM, dim=1, descending=True, stable=True).indices[:, 0]
    value_R = total_RM.gather(1, first_R[:, None])[:, 0].double()
    there_R = value_R > OUT
    first_R = torch.where(there_R, first_R, NOTHING)
    value_R = torch.where(there_R, value_R, 0.0)
    return TorchFound(first_R, value_R, there_R.long(), left_RM.sum(1), first_R[:, None])


def ended(value_RK: Tensor, first_RK: Tensor, led_R: Tensor, settings: SearchSettings) -> Tensor:
    """As search.py: ended."""
    alike_R = stable(value_RK, settings.stability)
    if settings.stop == "alike":
        return alike_R
    other_R = torch.where(first_RK != first_RK[:, :1], value_RK, OUT).amax(1)
    ahead_R = other_R < torch.tensor(settings.lead, dtype=value_RK.dtype, device=value_RK.device) * value_RK[:, 0]
    return (other_R == OUT) | ((led_R == first_RK[:, 0]) & (alike_R | ahead_R))


def stable(value_RK: Tensor, share: float) -> Tensor:
    """As search.py: stable."""
    there_RK = value_RK > OUT
    least_R, most_R = torch.where(there_RK, value_RK, torch.inf).amin(1), value_RK[:, 0]
    if bool((least_R <= 0).any()):
        raise UserError(
            f"a list has the value {float(least_R[least_R <= 0][0]):g}: adaptive search stops by the share of two "
            "values, which must be above 0"
        )
    return (least_R / most_R > share) & there_RK[:, 0]


def checked(chances: Chances) -> Chances:
    """Raises UserError where a chance is no finite number."""
    for name, value in zip(Chances._fields, chances, strict=True):
        if not bool(torch.isfinite(value).all()):
            wrong = float(value[~torch.isfinite(value)][0])
            raise UserError(f"the chance of {name!r} is {wrong}: a list scorer must give numbers")
    return chances


def allowed(bounds: TorchBounds, used_RKG: Tensor, places: int) -> Tensor:
    """As search.py: allowed."""
    rows, lists, groups = used_RKG.shape
    need_RKG = (bounds.low_RG[:, None] - used_RKG).clamp(min=0)
    one_RK1 = torch.ones((rows, lists, 1), dtype=torch.bool, device=used_RKG.device)
    room_RKA = torch.cat([used_RKG < bounds.high_RG[:, None], one_RK1], 2)
    helps_RKA = torch.cat([need_RKG > 0, ~one_RK1], 2)
    at_RM = torch.where(bounds.group_RM < 0, groups, bounds.group_RM)
    at_RKM = at_RM[:, None].expand(-1, lists, -1)
    helps_RKM = helps_RKA.gather(2, at_RKM)
    still_RKM = need_RKG.sum(2)[:, :, None] - helps_RKM.long()
    return room_RKA.gather(2, at_RKM) & ((still_RKM < places) | helps_RKM)


def counted(bounds: TorchBounds, used_RKG: Tensor, item_RK: Tensor) -> Tensor:
    """As search.py: counted."""
    group_RK = bounds.group_RM.gather(1, item_RK)
    return used_RKG + (group_RK[:, :, None] == torch.arange(used_RKG.shape[2], device=group_RK.device))
