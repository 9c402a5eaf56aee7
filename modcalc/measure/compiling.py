"""torch.compile of a model, block by block: equal blocks share one graph, so the time to compile does not grow with depth.

Only what lies between blocks is not fused; training frameworks compile large models in the same way (torchtitan, arXiv 2410.06511,
section 2.2.1). Collectives of DDP and FSDP2 run between blocks and break no graph: the compiler is kept from cutting blocks where DDP's
buckets of gradients end, as it would to start collectives within a block.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from modcalc.errors import UsageError, reason
from modcalc.measure.usage import out_of_memory

if TYPE_CHECKING:
    from modcalc.models.decoder import Decoder

GRAPHS = 1024  # of one function: kinds of block times sequence lengths, in the model and its baseline


def compiled(function: Callable) -> Callable:
    """`function` as one graph of static shapes. Under `torch.compiler.set_stance("force_eager")` it runs as it was."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def compile_blocks(model: "Decoder") -> None:
    """Compile the forward of every block in place, routing in its fusible forms; hooks on blocks stay outside of their graphs."""
    from modcalc.models import fusible

    fusible.allow(model)
    for block in model.blocks:
        block.forward = compiled(block.forward)


@contextmanager
def room_for_graphs() -> Iterator[None]:
    """The compiler gives up on a function after a few graphs; blocks of many kinds or lengths need more. And each block stays one graph."""
    import torch._dynamo

    # Of the backend and what it needs, from torch 2.7 on with a base class of its own; what Dynamo itself cannot is a defect of the models.
    failures = getattr(torch._dynamo.exc, "ShortenTraceback", torch._dynamo.exc.BackendCompilerFailed)
    # The names of torch 2.6, which later releases keep as aliases of (accumulated_)recompile_limit.
    with torch._dynamo.config.patch(cache_size_limit=GRAPHS, accumulated_cache_size_limit=GRAPHS, optimize_ddp=False), _unsaid():
        try:
            yield
        except failures as failed:
            if out_of_memory(failed):
                raise
            cut = "; if a file of its cache (TORCHINDUCTOR_CACHE_DIR) is cut off or broken, delete the cache"
            cause = getattr(failed, "inner_exception", failed)
            # Of a compiler of its own, what that said.
            said = next((line.strip() for line in str(cause).splitlines()[1:] if "error:" in line), "")
            why = f"{reason(cause)}{': ' if said else ''}{said:.200}"
            raise UsageError(f"--compile: torch.compile fails here: {why}; --no-compile measures without it{cut}") from failed


@contextmanager
def _unsaid() -> Iterator[None]:
    """Without what a CUDA build says when it compiles for the CPU of a machine that has no GPU."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
