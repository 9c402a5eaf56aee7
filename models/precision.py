"""What is computed in full precision in models of a narrow dtype."""

from contextlib import nullcontext

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least fp32: fp32 of a narrow dtype, fp64 of a double one."""
    return torch.promote_types(dtype, torch.float32)


def computed(x: torch.Tensor) -> torch.dtype:
    """The type of what matrix products make of x here: its own, or autocast's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else x.dtype


def full_precision(device: torch.device) -> torch.autocast | nullcontext:
    """Switches autocast off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
