"""The results of an experiment as one file, a plot, and a few sentences."""

from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev

from modcalc import account
from modcalc.measure.records import ends
from modcalc.measure.stats import median_interval
from modcalc.render.numbers import change, share, si
from modcalc.render.plot import COLOURS, amounts, figure, plot_target
from modcalc.render.table import Column, Table

from .arms import Arm, Preset
from .routing import ABLATIONS

LABELS = {
    "dense": "dense",
    "mod": "MoD, same training FLOPs as dense",
    "mod_same_steps": "MoD, same steps as dense",
    "mod_no_predictor": "MoD without predictor, same training FLOPs",
    "random": "random routing, same training FLOPs",
}
AGAINST_RANDOM = {"mod_no_predictor": "the learned router", "mod": "the learned router and its predictor"}
ABLATED = {"random_choice": "tokens chosen by chance instead of by its routers", "all_around": "its routed blocks left out"}
UNITS = (
    "losses in nats per byte of held-out text; FLOPs by convention matmul (2 per multiply-add, attention over all T x T pairs), "
    "backward included in training FLOPs"
)


def summary(p: Preset, plan: list[Arm], points: list[dict], routing: list[dict]) -> dict:
    """Means over seeds of the last point of each run, with the sample standard deviation, and what follows from them: against another arm over
    the seeds that both have.
    """
    arms = {}
    for arm in plan:
        last = [x for x in points if x["arm"] == arm.name and x["step"] == arm.steps]
        if not last:
            continue
        losses = [x["held_out_loss"] for x in last]
        report = account(arm.spec)
        arms[arm.name] = {
            "seeds": [x["seed"] for x in last],
            "steps": arm.steps,
            "params": report.params.total,
            "forward_flops_per_token": float(report.flops.forward_per_token),
            "train_flops": arm.train_flops(p.batch_size, arm.steps),
            "held_out_loss": {"mean": mean(losses), "stdev": stdev(losses) if len(losses) > 1 else None, "samples": losses},
        }
    against_dense = {name: _change(pairs) for name in arms if name != "dense" and (pairs := _pairs(arms, name, "dense"))}
    learned = [x for x in routing if x["arm"] == "mod"]
    sampling = {
        how: {
            "accuracy": mean(x["accuracy"][how] for x in learned),
            "causal_over_topk": mean(x["causal_over_topk"][how] for x in learned),
        }
        for how in ("router", "predictor")
        if learned
    }
    ablation = {change: mean(x["ablation_over_topk"][change] for x in learned) for change in ABLATIONS if learned}
    return {
        "units": UNITS,
        "arms": arms,
        "loss_against_dense": against_dense,
        "learned_against_random": {name: gap for name in AGAINST_RANDOM if (gap := paired(arms, name, "random"))},
        "sampling": sampling,
        "ablation": ablation,
    }


def paired(arms: dict, name: str, other: str) -> dict | None:
    """Change of the loss from `other` to `name`, seed by seed: both saw the same text in the same order."""
    pairs = _pairs(arms, name, other)
    if not pairs:
        return None
    samples = [own / base - 1 for own, base in pairs.values()]
    middle = median_interval(samples)
    interval = ends(middle)
    return {
        "seeds": list(pairs),
        "samples": samples,
        "median": middle.value,
        "interval": list(interval) if interval else None,
        "confidence": middle.confidence,
    }


def _pairs(arms: dict, name: str, other: str) -> dict[int, tuple[float, float]]:
    """Seed -> losses of both, of the seeds that both have."""
    losses, base = (dict(zip(arms[x]["seeds"], arms[x]["held_out_loss"]["samples"], strict=True)) if x in arms else {} for x in (name, other))
    return {seed: (losses[seed], base[seed]) for seed in losses if seed in base}


def _change(pairs: dict[int, tuple[float, float]]) -> float:
    """Of the mean loss."""
    own, base = zip(*pairs.values(), strict=True)
    return mean(own) / mean(base) - 1


def document(p: Preset, plan: list[Arm], points: list[dict], routing: list[dict], machine: dict, corpus: dict) -> dict:
    return {
        "schema": 1,
        "experiment": "train_mod",
        "preset": asdict(p),
        "machine": machine,
        "corpus": corpus,
        "summary": summary(p, plan, points, routing),
        "points": points,
        "routing": routing,
    }


def table(result: dict) -> Table:
    """One row an arm."""
    columns = [
        Column("Model"),
        Column("Steps", "count"),
        Column("Training FLOPs", "si"),
        Column("Forward FLOPs per token", "si"),
        Column("Held-out loss", "ratio"),
        Column("Standard deviation", "ratio"),
        Column("Against dense", "change"),
    ]
    rows = [
        (
            LABELS[name],
            arm["steps"],
            arm["train_flops"],
            arm["forward_flops_per_token"],
            arm["held_out_loss"]["mean"],
            arm["held_out_loss"]["stdev"],
            result["loss_against_dense"].get(name),
        )
        for name, arm in result["arms"].items()
    ]
    notes = [against_random(name, gap) for name, gap in result["learned_against_random"].items()]
    notes += [
        f"deciding by the {how}: {100 * x['accuracy']:.2f} % of decisions as top-k; causal loss {change(x['causal_over_topk'])} against top-k"
        for how, x in result["sampling"].items()
    ]
    notes += [f"the trained MoD model, {ABLATED[name]}: loss {change(x)}" for name, x in result["ablation"].items()]
    return Table(title="Mixture-of-Depths against dense", headline=[result["units"]], columns=columns, rows=rows, notes=notes)


def against_random(name: str, gap: dict) -> str:
    sure = f" ({share(gap['confidence'])} interval {' to '.join(map(change, gap['interval']))})" if gap["interval"] else ""
    by_seed = ", ".join(map(change, gap["samples"]))
    change_of_loss = f"loss {change(gap['median'])}{sure}, the median of seeds; seed by seed {by_seed}"
    return f"{AGAINST_RANDOM[name]} against random routing at the same training FLOPs: {change_of_loss}"


def plot(file: Path, result: dict, points: list[dict]) -> None:
    """Held-out loss against training FLOPs, and the last loss against forward FLOPs per token; a line or dot a seed."""
    with figure(plot_target(file), "Byte-level language modelling: Mixture-of-Depths against dense", result["units"], width=11, grid=(1, 2)) as (
        left,
        right,
    ):
        for colour, (name, arm) in zip(COLOURS, result["arms"].items(), strict=False):
            for seed in arm["seeds"]:
                run = [x for x in points if x["arm"] == name and x["seed"] == seed]
                label = LABELS[name] if seed == arm["seeds"][0] else None
                left.plot([x["train_flops"] for x in run], [x["held_out_loss"] for x in run], color=colour, alpha=0.8, label=label)
            samples = arm["held_out_loss"]["samples"]
            right.scatter(
                [arm["forward_flops_per_token"]] * len(samples), samples, color=colour, label=f"{LABELS[name]} ({si(arm['train_flops'])}FLOPs)"
            )
        for axes, label in ((left, "training FLOPs"), (right, "forward FLOPs per token")):
            amounts(axes.xaxis, label)
            axes.set_ylabel("held-out loss [nats per byte]")
            axes.legend(frameon=False, fontsize=8)
