"""Small constants on the device that needs them, copied there once: a copy to a GPU waits for all that it has to do."""

from functools import lru_cache

import torch
from torch import Tensor


def placed(constant: Tensor, like: Tensor) -> Tensor:
    """The same numbers as `like` has, where that is. constant: is never written to."""
    return _placed(constant, like.dtype, like.device)


@lru_cache(maxsize=256)
def _placed(constant: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return constant.to(device, dtype)
