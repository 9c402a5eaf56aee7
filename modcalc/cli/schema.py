"""`modcalc schema`."""

import json

import typer


def schema() -> None:
    """Print the JSON Schema of a spec. Point your editor's YAML extension at it for completion and checks."""
    from modcalc.spec.load import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))
