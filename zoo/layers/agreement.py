"""How much two views of the same objects agree on what they are (Ji et al. 2019: invariant information clustering)."""

import torch
from torch import Tensor

from zoo.layers.precision import never_in_halves


@never_in_halves
def mutual_information(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Mutual information of the categories that two views give to the same objects (IIC, equations 2 and 3), in nats.

    From the joint distribution over all objects, with neither view being the first. It is largest, ln C, where views
    agree, are sure, and all categories are equally frequent.

    Args:
        first: (..., C) category probabilities, sum 1.
        second: (..., C), of the other view.
        weights: (...), at least 0: how much each object counts.

    Returns:
        A scalar in [0, ln C]; 0 where there are no objects.
    """
    C = first.shape[-1]
    joint = (weights[..., None] * first).reshape(-1, C).T @ second.reshape(-1, C)
    joint = (joint + joint.T) / (2 * weights.sum()).clamp_min(torch.finfo(joint.dtype).tiny)
    marginal = joint.sum(0)
    tiny = torch.finfo(joint.dtype).tiny  # 0 log 0 is 0
    return (joint * joint.clamp_min(tiny).log()).sum() - 2 * (marginal * marginal.clamp_min(tiny).log()).sum()
