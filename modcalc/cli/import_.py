"""`modcalc import`."""

from typing import Annotated

import typer

from modcalc.cli.options import AsMod, option
from modcalc.errors import UsageError, demand_name
from modcalc.spec.schema import MAX_SIZE

Config = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG", help="A config.json of the transformers library, or a folder that holds one; CONFIG#text_config is one section of it."
    ),
]
Output = Annotated[str | None, option("--output", "--out", "-o", metavar="FILE", help="Write the spec into FILE. [default: print it]")]
SeqLen = Annotated[
    int | None,
    option("--seq-len", "-T", min=1, max=MAX_SIZE, help="The spec's default sequence length. [default: the model's longest]"),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")]


def import_(config: Config, output: Output = None, mod: AsMod = None, seq_len: SeqLen = None, force: Force = False) -> None:
    """A spec from a config.json of the transformers library: printed as YAML, or written whole or not at all."""
    import msgspec

    from modcalc.render.output import write
    from modcalc.spec.hub import from_config
    from modcalc.spec.load import dump, sectioned
    from modcalc.spec.mod_option import apply_mod
    from modcalc.spec.validate import check_spec

    if force and output is None:
        raise UsageError("--force without -o FILE: there is nothing to overwrite")
    if output is not None:
        demand_name("-o", output)
    file, section = sectioned(config)
    demand_name("CONFIG", config)
    if file.lower().endswith((".yaml", ".yml")):
        raise UsageError(f"{config}: YAML is what import writes; it takes a config.json, or a folder that holds one")
    if output and output.lower().endswith(".json"):
        raise UsageError(f"-o {output}: a spec is YAML, and other commands would read this name as a config.json; choose a name in .yaml")
    spec = from_config(file, section)
    if seq_len is not None:
        spec = check_spec(msgspec.structs.replace(spec, seq_len=seq_len))
    if mod is not None:
        spec = apply_mod(spec, mod)
    text = dump(spec)
    if output is None:
        write(text, exact=True)
        return
    _write(output, text, force)
    typer.echo(f"wrote {output}", err=True)


def _write(output: str, text: str, force: bool) -> None:
    """Through a file beside it, so that `output` never holds half a spec."""
    import os
    from pathlib import Path

    path = Path(output)
    part = path.parent / f".{path.name[:100]}.{os.getpid()}.part"
    try:
        if path.is_dir():
            raise UsageError(f"{output}: is a folder; name the file to write, such as {path / 'spec.yaml'}")
        if path.exists() and not path.is_file():
            raise UsageError(f"{output}: is no regular file; without -o the spec is printed")
        if path.exists() and not force:
            raise UsageError(f"{output}: exists already; choose another name, or overwrite it with --force")
        try:
            with part.open("x", encoding="utf-8") as file:
                file.write(text)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, ValueError) as bad:
        raise UsageError(f"{output}: cannot be written: {getattr(bad, 'strerror', None) or bad}") from None
