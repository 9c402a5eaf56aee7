"""A memory report as the JSON document of `modcalc memory`."""

from typing import Any

from modcalc.cost.memory import SampleMemory, TrainMemory
from modcalc.cost.memory_report import MemoryReport


def memory_document(report: MemoryReport) -> dict[str, Any]:
    """Keys as docs/json.md promises them; bytes throughout."""
    w, training = report.work, report.training
    train = w.phase == "train"
    return {
        "spec": report.plan.name,
        "workload": {"batch": w.batch, "seq_len": w.seq_len, "context": w.context, "phase": w.phase, "routing": w.routing},
        "dtype": report.dtype,
        "optimizer": training.optimizer if train else None,
        "recompute": training.recompute if train else None,
        "attention": report.attention if train else None,
        "device": training.device if train else None,
        "fsdp": training.fsdp if train else None,
        "params": {"total": report.params},
        "bytes": memory_bytes(report.memory),
        "activations": [
            {"recompute": c.recompute, "attention": c.attention, "kept": c.activations.total, "again": c.activations.again, "by": c.activations.kept}
            for c in report.choices
        ],
        "kv_cache": {"tokens": report.cached, "caches": [{"routing": cache.routing, **cache.bytes} for cache in report.caches]},
        "dense_twin": memory_bytes(report.twin) if report.twin else None,
        "gpu_memory": report.room,
        "fewest_gpus": report.gpus,
        "fits": [
            {"phase": f.phase, "knob": f.knob, "routing": f.routing or None, "largest": f.largest}
            | {"held": f.held, "next": f.next, "limit": f.limit or None}
            for f in report.fits
        ],
        "left_out": list(report.left_out),
    }


def memory_bytes(memory: TrainMemory | SampleMemory) -> dict[str, Any]:
    if isinstance(memory, SampleMemory):
        return {"weights": memory.weights, "kv_cache": memory.kv_cache, "logits": memory.logits, "total": memory.total}
    return {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "master_weights": memory.master,
        "optimizer_states": memory.states,
        "gathered_weights": memory.gathered,
        "activations": memory.activations.total,
        "activations_by": memory.activations.kept,
        "computed_again": memory.activations.again,
        "loss": memory.loss,
        "loss_backward": memory.loss_backward,
        "whole_at_a_block": memory.under_way,
        "whole_outside_blocks": memory.outside,
        "total": memory.total,
    }
