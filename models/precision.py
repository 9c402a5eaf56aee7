"""What is computed in full precision in models of a narrow dtype."""

from contextlib import nullcontext

import torch


def wide(dtype: torch.dtype) -> torch.dtype:
    """At least fp32: fp32 of a narrow dtype, fp64 of a double one."""
    return torch.promote_types(dtype, torch.float32)


def full_precision(device: torch.device) -> torch.autocast | nullcontext:
    """Switches autocast off."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
