"""`modcalc memory`: what a model occupies, in bytes, and what fits."""

from typing import Annotated, Literal

import typer

from modcalc.cli.options import AsMod, AttentionKernel, Batch, Context, Format, PhaseName, Plot, Recompute, SeqLen, Specs, check_decode, option
from modcalc.cli.targets import targets
from modcalc.errors import UsageError
from modcalc.spec.schema import MAX_SIZE

Phase = Annotated[PhaseName, typer.Option("--phase", "--mode", help="What memory is asked for.")]
Dtype = Annotated[Literal["bf16", "fp16", "fp32", "fp64"], typer.Option("--dtype", help="Type of weights, gradients, activations and cache.")]
Optimizer = Annotated[
    Literal["adamw", "momentum", "sgd"] | None,
    option("--optimizer", help="2, 1 or no numbers per parameter. [default: adamw]"),
]
Master = Annotated[
    bool | None,
    option(
        "--master/--no-master",
        help="With bf16 or fp16: an fp32 copy of the weights and fp32 optimizer states, or all in --dtype. [default: --master]",
    ),
]
Device = Annotated[Literal["cuda", "cpu"] | None, option("--device", help="Whose kernels keep activations. [default: cuda]")]
Fsdp = Annotated[
    int | None,
    option(
        "--fsdp",
        metavar="GPUS",
        min=2,
        max=MAX_SIZE,
        help="On each of so many GPUs, with weights, gradients and optimizer in slices (FSDP2); --batch is that of one. [default: one holds all]",
    ),
]
GpuMemory = Annotated[
    str | None,
    option(
        "--gpu-memory",
        metavar="SIZE",
        help="Also the largest batch and the longest context that fit, such as into 80GiB; of decode alone with another phase than train, of "
        "training alone with --fsdp.",
    ),
]


def memory(
    specs: Specs,
    mod: AsMod = None,
    seq_len: SeqLen = None,
    batch: Batch = 1,
    phase: Phase = "train",
    context: Context = None,
    dtype: Dtype = "bf16",
    optimizer: Optimizer = None,
    master: Master = None,
    recompute: Recompute = None,
    attention: AttentionKernel = None,
    device: Device = None,
    fsdp: Fsdp = None,
    gpu_memory: GpuMemory = None,
    format: Format = None,
    plot: Plot = None,
) -> None:
    """Weights, gradients, optimizer, activations, logits and KV cache of specs in bytes, on one device that holds all of it, or one of many."""
    from modcalc.cli.loading import load_all
    from modcalc.cost.memory_report import memory_report
    from modcalc.cost.workload import Training
    from modcalc.render.memory import show_memory
    from modcalc.render.memory_document import memory_document
    from modcalc.render.output import chosen, emit
    from modcalc.units import parse_bytes

    given = {"optimizer": optimizer, "master": master, "recompute": recompute, "attention": attention, "device": device, "fsdp": fsdp}
    given = {name: value for name, value in given.items() if value is not None}
    _check(phase, context, seq_len, dtype, given)
    training = Training(**given)
    room = parse_bytes(gpu_memory, "--gpu-memory") if gpu_memory is not None else None
    if room is not None and room < 2**20 and not gpu_memory.rstrip()[-1].isalpha():
        raise UsageError(f"--gpu-memory {gpu_memory}: {room:,} bytes? give its unit, such as {gpu_memory.strip()}GiB")
    target = targets({"--plot": plot}, {})
    format = chosen(format)
    loaded = load_all(specs, mod)
    for spec in loaded:
        planned = spec.train.batch_size if spec.train else 1
        own = -(-planned // training.fsdp)
        if phase == "train" and batch == 1 < own:
            sliced = training.fsdp > 1
            where = f", {own:,} of them on each of {training.fsdp:,} GPUs" if sliced else ""
            advice = f"--batch {own}" + ("" if sliced else ", if one GPU is to hold them all (--fsdp N bills one of N)")
            typer.echo(f"note: {spec.name}: billed for one sequence; its train section has {planned:,} a step{where}: {advice}", err=True)
    reports = [
        memory_report(spec, batch=batch, seq_len=seq_len, phase=phase, context=context, dtype=dtype, room=room, training=training) for spec in loaded
    ]
    if format == "json":
        documents = [memory_document(report) for report in reports]
        emit(documents[0] if len(documents) == 1 else {"reports": documents}, [], "json")
    else:
        show_memory(reports, format)
    if target:
        from modcalc.render.plot_memory import plot_memory

        plot_memory(target, reports)


def _check(phase: str, context: int | None, seq_len: int | None, dtype: str, of_training: dict) -> None:
    """Options that contradict each other; Workload checks the rest."""
    check_decode("--phase", phase, context is not None, seq_len is not None)
    if of_training and phase != "train":
        options = ", ".join("--no-master" if value is False else f"--{name}" for name, value in of_training.items())
        raise UsageError(f"{options} with --phase {phase}: only --phase train has them")
    if "master" in of_training and dtype not in ("bf16", "fp16"):
        raise UsageError(f"--master, --no-master with --dtype {dtype}: only bf16 and fp16 have a copy in fp32")
