"""Files that a command writes beside stdout, checked before it works."""

from pathlib import Path

from modcalc.errors import UsageError, demand_name


def targets(written: dict[str, str | None], read: dict[str, str]) -> Path | None:
    """Where the plot goes, if one is asked for. Raises UsageError, before anything is measured, where a file to be written cannot be,
    or is one of another option or that is read. written: option -> file, --plot among them. read: file -> what it is.
    """
    taken = {Path(file).resolve(): what for file, what in read.items()}
    for option, file in written.items():
        if file is None:
            continue
        demand_name(option, file)
        if (other := taken.setdefault(Path(file).resolve(), option)) != option:
            raise UsageError(f"{option} {file}: that is {other}, which it would overwrite; choose another file")
    if (trace := written.get("--trace")) is not None:
        _demand_trace(Path(trace))
    if (plot := written["--plot"]) is None:
        return None
    from modcalc.render.plot import plot_target

    return plot_target(plot)


def _demand_trace(path: Path) -> None:
    """Raises UsageError where no Chrome trace can, or should, be written."""
    from modcalc.render.plot import writable

    if not path.name.lower().endswith((".json", ".json.gz")):
        raise UsageError(f"--trace {path}: a Chrome trace is JSON; name it .json, or .json.gz")
    writable(path, "--trace")
