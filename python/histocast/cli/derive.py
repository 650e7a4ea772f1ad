"""A verb from a stage: its options are the stage's fields."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin

import typer

from histocast.stages.stage import FromEnvironment, Positional, Stage


def add_stage(app: typer.Typer, verb: str) -> None:
    """Add the stage of a verb, whose class has the verb's name."""
    module = import_module(f"histocast.stages.{verb.replace('-', '_')}")
    stage: type[Stage] = getattr(module, verb.title().replace("-", ""))

    def run(**given: Any) -> None:
        made = stage(**{name: value for name, value in given.items() if value is not None})
        for line in made.lines(made.run()):
            typer.echo(line)

    run.__signature__ = inspect.Signature(list(_parameters(stage)))  # type: ignore[attr-defined]
    run.__doc__ = stage.__doc__
    app.command(verb)(run)


def _parameters(stage: type[Stage]) -> Any:
    for name, field in stage.model_fields.items():
        kind, default = field.annotation, field.get_default()
        if get_origin(kind) is tuple:
            kind, default = list[get_args(kind)[0]] | None, None  # type: ignore[assignment,misc]
        marks = {type(mark): mark for mark in field.metadata}
        option = f"--{(field.alias or name).replace('_', '-')}"
        if field.is_required():
            default = inspect.Parameter.empty
        info = typer.Argument if Positional in marks else typer.Option
        facts: dict[str, Any] = {"help": field.description}
        for mark in field.metadata:
            facts |= {bound: getattr(mark, key) for bound, key in (("min", "ge"), ("max", "le")) if hasattr(mark, key)}
        if FromEnvironment in marks:
            facts["envvar"] = marks[FromEnvironment].variable
        names = (
            ()
            if Positional in marks
            else (option,)
            if not (kind is bool and default)
            else (f"{option}/--no-{option[2:]}",)
        )
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info(*names, **facts)]
        )
