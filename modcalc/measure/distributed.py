"""Many processes, as torchrun starts them: DDP and FSDP2, and what the processes say about each other."""

import os
import warnings
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from modcalc.errors import UsageError
from modcalc.measure.attribution import profiled
from modcalc.measure.ranges import STEP, Ranged
from modcalc.measure.records import Ranks, Settings
from modcalc.measure.steptime import Step, alternate
from modcalc.spec.plan import Plan

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from modcalc.measure.steps import Wrap

ROUNDS = 3
Interval = tuple[float, float]


def avoidable(plan: Plan) -> bool:
    """Whether it may be that no token of a batch takes some way around: all are kept, or as many as pass a threshold."""
    return any(r.bypass is not None and (r.selection == "threshold" or r.capacity >= among) for among, r in plan.routings)


@dataclass(frozen=True, slots=True)
class World:
    """All processes, one device each, as a one-dimensional mesh."""

    rank: int
    size: int
    device: torch.device
    mesh: "DeviceMesh"

    @classmethod
    def join(cls, device: torch.device) -> "World":
        """Join the processes that torchrun started (env:// rendezvous); nccl on GPUs, gloo on CPUs."""
        from torch.distributed.device_mesh import init_device_mesh

        if device.type == "cuda":
            local = int(os.environ["LOCAL_RANK"])
            gpus = torch.cuda.device_count()
            if local >= gpus:
                raise UsageError(f"process {local} of this machine has no GPU of its own: it has {gpus}; give torchrun --nproc-per-node {gpus}")
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), device, init_device_mesh(device.type, (dist.get_world_size(),)))

    def leave(self) -> None:
        """Leave the process group."""
        dist.destroy_process_group()

    def wrap(self, settings: Settings) -> "Wrap":
        """What makes a model parallel as the settings say."""
        return self._ddp if settings.parallel == "ddp" else self._fsdp

    def _ddp(self, model: nn.Module) -> nn.Module:
        """Whole copies whose gradients are averaged (torch.nn.parallel.DistributedDataParallel)."""
        # A way around that no token takes has no gradient, for which DDP would wait; to look for such costs time in each step.
        return nn.parallel.DistributedDataParallel(model, process_group=self.mesh.get_group(), find_unused_parameters=avoidable(model.plan))

    def _fsdp(self, model: nn.Module) -> nn.Module:
        """Parameters, gradients and optimizer states sharded (FSDP2, torch.distributed.fsdp.fully_shard), block by block.

        The model comes on the meta device; weights are drawn where they stay, so no process ever holds all of them.
        """
        from torch.distributed.fsdp import fully_shard

        from modcalc.models.initialise import initialise

        # Blocks return views, which FSDP2 warns of for the sake of in-place work; the models do none.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
        # There each process draws its share from its own generator, seeded by its rank.
        warnings.filterwarnings("ignore", message="DTensor random operators may not have complete support on cpu")
        for block in model.blocks:
            fully_shard(block, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        model.to_empty(device=self.device)
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[self.device] if on_gpu else []):
            # On GPUs shards are drawn as parts of one whole, which needs equal seeds.
            torch.manual_seed(0 if on_gpu else self.rank)
            initialise(model)
        return model

    def most(self, n: int) -> int:
        """The largest n of all processes: all must take as many steps."""
        return max(self._gather(n))

    def any(self, one: bool) -> bool:
        """Whether it is true in any process."""
        return bool(self.most(int(one)))

    def from_first(self, value: Any) -> Any:
        """The first process's value, in all."""
        told = [value]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    @staticmethod
    def lost(error: BaseException) -> bool:
        """Whether a collective failed because a process of the group is gone."""
        return isinstance(error, dist.DistError) or "closed by peer" in str(error) or "reset by peer" in str(error)

    def _gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def compare(self, samples: list[list[float]], step: Step, settings: Settings) -> tuple[Ranks, list[list[float]]]:
        """(what the ranks say, samples of the slowest rank at each step): a step is over when all are done."""
        ranks: list[list[list[float]]] = self._gather(samples)
        slowest = [[max(at) for at in zip(*(rank[i] for rank in ranks), strict=True)] for i in range(len(samples))]
        medians = [median(rank[0]) for rank in ranks]
        busy, exposed, seconds = self._communication(step)
        found = Ranks(
            self.size,
            dist.get_backend(),
            settings.parallel,
            medians,
            (max(medians) - min(medians)) / median(medians),
            busy,
            busy / seconds,
            exposed,
        )
        return found, slowest

    def _communication(self, step: Step) -> tuple[float, float | None, float]:
        """(seconds of a step in which a collective ran, those in which nothing else did, the step) under the profiler."""
        cuda = self.device.type == "cuda"
        ranged = Ranged(step)
        with profiled(self.device, ranged) as profiler:
            seconds = sum(alternate([ranged], self.device, ROUNDS)[0]) / ROUNDS
        events = profiler.events()
        if not cuda:
            # gloo works on threads of its own; what overlaps with it is not told apart.
            within = [_span(e) for e in events if e.name == STEP]
            calls = [_span(e) for e in events if e.name.startswith("gloo:")]
            return overlap(calls, within) / 1e6 / ROUNDS, None, seconds
        kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA and not getattr(e, "is_user_annotation", False)]
        calls = [_span(e) for e in kernels if "nccl" in e.name.lower()]
        others = [_span(e) for e in kernels if "nccl" not in e.name.lower()]
        busy = length(calls)
        return busy / 1e6 / ROUNDS, (busy - overlap(calls, others)) / 1e6 / ROUNDS, seconds


def started_by_torchrun() -> bool:
    """Whether torchrun's environment is there."""
    return dist.is_available() and dist.is_torchelastic_launched()


def _span(event: Any) -> Interval:
    return event.time_range.start, event.time_range.end


def union(spans: list[Interval]) -> list[Interval]:
    """Disjoint intervals that cover the same, in order."""
    merged: list[Interval] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def length(spans: list[Interval]) -> float:
    """Length of what the intervals cover."""
    return sum(end - start for start, end in union(spans))


def overlap(a: list[Interval], b: list[Interval]) -> float:
    """Length of what both cover."""
    return length(a) + length(b) - length(a + b)
