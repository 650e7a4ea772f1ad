"""The command line: one verb for each stage, whose options are the stage's fields.

A verb is read from its stage alone: the class's docstring is its help, a field's docstring an option's, and pydantic checks
the values. Nothing is imported but the verb's own stage, and for the list of verbs nothing at all.
"""

from __future__ import annotations

import ast
import os
import shutil
import sys
from argparse import SUPPRESS, ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin

from histocast import __version__
from histocast.errors import UsageError
from histocast.failures import end_with

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic.fields import FieldInfo

    from histocast.stages.stage import Stage

ABOUT = "Predict spatial gene expression from H&E whole-slide images."

GROUPS = {
    "Predict one slide": ("predict-slide",),
    "Stages of the predict workflow": (
        "check",
        "tile",
        "encode",
        "predict",
        "report",
        "summarise",
        "cohort",
        "provenance",
    ),
    "Stages of the train workflow": ("plan", "prepare-encoders", "prepare", "train", "evaluate", "export", "lineage"),
    "Genes": ("genes resolve", "genes describe", "genes embed", "genes prepare"),
    "Encoders and published data": ("export-encoder", "training-sheet"),
    "Inference servers": ("repository", "serve"),
    "Tools": ("doctor",),
}
"""Every verb, in the order in which the help lists them."""

BOUNDS = {"gt": "more than", "ge": "at least", "le": "at most", "lt": "less than"}
"""Marks of pydantic on a field."""

VERBS = tuple(verb for verbs in GROUPS.values() for verb in verbs)


def main() -> None:
    """Run the command line and exit with the code of the error, if any (see `histocast.errors`)."""
    try:
        stage = read_stage(sys.argv[1:])
        for line in stage.lines(stage.run()):
            sys.stdout.write(f"{line}\n")
        # A full disk behind standard output is reported here, and not by the interpreter on its way out.
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - no exception of another library reaches a user
        end_with(error)
    sys.exit(0)


def read_stage(arguments: Sequence[str]) -> Stage:
    """Return the stage that a command line asks for; print help or the version, and exit, where it asks for those.

    Raises `UsageError`: there is no such verb or option, a value does not fit, or one is missing; every fault in one
    message.
    """
    words, rest = _split(arguments)
    verb = " ".join(words)
    if verb not in VERBS:
        _answer(verb, rest)
    stage = find_stage(verb)
    parser = make_parser(verb, stage)
    given, unknown = parser.parse_known_args(_joined(rest, stage))
    if "help" in given:
        _print(parser.format_help())
    if unknown:
        name = unknown[0].partition("=")[0]
        close = get_close_matches(name, _written(stage), n=1)
        parser.error(f"no option {name}" + (f", did you mean {close[0]}?" if close else ""))
    values = {**_from_environment(stage), **vars(given)}
    from pydantic import ValidationError

    try:
        return stage(**values)
    except ValidationError as error:
        parser.error("\n  ".join(_faults(error, stage)))


def find_stage(verb: str) -> type[Stage]:
    """Return the class of a verb: `genes resolve` is ``GenesResolve`` of ``histocast/stages/genes_resolve.py``."""
    return getattr(import_module(f"histocast.stages.{_file_of(verb)}"), _class_of(verb))  # type: ignore[no-any-return]


def make_parser(verb: str, stage: type[Stage]) -> ArgumentParser:
    """Return what reads the options of a verb; required ones come first in its help, ``--outdir`` last."""
    from histocast.stages.stage import Positional

    arguments = [
        f"{name.upper()}{' ...' * (get_origin(field.annotation) is tuple)}"
        for name, field in stage.model_fields.items()
        if Positional() in field.metadata
    ]
    parser = _Parser(
        prog=f"histocast {verb}",
        usage=" ".join(("histocast", verb, *arguments, "[options]")),
        description="\n".join(line.strip() for line in (stage.__doc__ or "").splitlines()),
        formatter_class=_Help,
        argument_default=SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    fields = sorted(stage.model_fields.items(), key=lambda field: (not field[1].is_required(), field[0] == "outdir"))
    for name, field in fields:
        about = _describe(field)
        if Positional() in field.metadata:
            several = get_origin(field.annotation) is tuple
            parser.add_argument(name, nargs="*" if several else "?", metavar=name.upper(), help=about)
        elif bool in (field.annotation, *get_args(field.annotation)):
            parser.add_argument(
                option_of(name, field), dest=_key(name, field), action=BooleanOptionalAction, help=about
            )
        else:
            action: Any = "append" if get_origin(field.annotation) is tuple else "store"
            parser.add_argument(
                option_of(name, field), dest=_key(name, field), action=action, metavar=_kind(field), help=about
            )
    parser.add_argument("--help", action="store_true", help="Show this text and exit.")
    return parser


def option_of(name: str, field: FieldInfo) -> str:
    """Return the option that a field is given by."""
    return f"--{_key(name, field).replace('_', '-')}"


def _written(stage: type[Stage]) -> list[str]:
    """How each field is written: as an option, or in capitals where it is an argument."""
    from histocast.stages.stage import Positional

    return [
        name.upper() if Positional() in field.metadata else option_of(name, field)
        for name, field in stage.model_fields.items()
    ]


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, where=self.prog, advice=f"see {self.prog} --help")


class _Help(RawDescriptionHelpFormatter):
    """The help of a verb, as wide as the terminal and at most 100 columns."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 100))


def _split(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The words of the verb, and what follows."""
    groups = {verb.split()[0] for verb in VERBS if " " in verb}
    count = 2 if arguments and arguments[0] in groups and not "".join(arguments[1:2]).startswith("-") else 1
    return arguments[:count], arguments[count:]


def _answer(verb: str, rest: Sequence[str]) -> NoReturn:
    """Print the version or the list of verbs where no verb was given."""
    group = [each for each in VERBS if each.startswith(f"{verb} ")]
    if verb == "--version":
        _print(__version__)
    if verb == "--help" or (group and "--help" in rest):
        _print(_list_verbs(group or VERBS))
    if not verb or group:
        _print(_list_verbs(group or VERBS), code=UsageError.exit_code)
    close = get_close_matches(verb, VERBS, n=1)
    raise UsageError(
        f"no verb {verb!r}" + (f", did you mean {close[0]}?" if close else ""), advice="see histocast --help"
    )


def _print(text: str, *, code: int = 0) -> NoReturn:
    sys.stdout.write(f"{text.rstrip()}\n")
    sys.stdout.flush()
    sys.exit(code)


def _list_verbs(shown: Sequence[str]) -> str:
    width = max(map(len, shown)) + 2
    lines = ["usage: histocast VERB [options]", "", ABOUT]
    for heading, verbs in GROUPS.items():
        listed = [f"  {verb.ljust(width)}{_summary(verb)}" for verb in verbs if verb in shown]
        lines += ["", f"{heading}:", *listed] if listed else []
    return "\n".join(
        [*lines, "", "histocast VERB --help shows the options of a verb, histocast --version the version."]
    )


def _summary(verb: str) -> str:
    """First line of a stage's docstring, read without importing it."""
    source = (Path(__file__).parent / "stages" / f"{_file_of(verb)}.py").read_text(encoding="utf-8")
    found = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == _class_of(verb))
    return (ast.get_docstring(next(found)) or "").partition("\n")[0]


def _file_of(verb: str) -> str:
    return verb.replace(" ", "_").replace("-", "_")


def _class_of(verb: str) -> str:
    return verb.title().replace(" ", "").replace("-", "")


def _key(name: str, field: FieldInfo) -> str:
    return field.alias or name


def _describe(field: FieldInfo) -> str:
    """The help of an option: what it means, its default and its bounds."""
    default = field.get_default()
    notes = ["required"] if field.is_required() else []
    if not field.is_required() and default not in (None, ()) and not isinstance(default, bool):
        notes.append(f"default: {default}")
    notes += ["default: on"] * (default is True)
    for mark in field.metadata:
        notes += [f"{words} {getattr(mark, key)}" for key, words in BOUNDS.items() if hasattr(mark, key)]
    text = " ".join((field.description or "").replace("``", "").split())
    return f"{text} [{'; '.join(notes)}]".replace(" []", "").replace("%", "%%")


def _kind(field: FieldInfo) -> str:
    """What stands for an option's value in the help."""
    shown_as: dict[Any, str] = {Path: "PATH", int: "INT", float: "NUMBER"}
    kinds = [field.annotation]
    while kinds:
        kind = kinds.pop(0)
        if get_origin(kind) is Literal:
            return "|".join(get_args(kind))
        if (shown := shown_as.get(kind)) is not None:
            return shown
        kinds += get_args(kind)
    return "TEXT"


def _joined(arguments: Sequence[str], stage: type[Stage]) -> list[str]:
    """The arguments with each value behind its option's ``=``: it may begin with a dash."""
    flags = (bool, bool | None)
    valued = {option_of(*field) for field in stage.model_fields.items() if field[1].annotation not in flags}
    words = iter(arguments)
    return [
        f"{word}={value}" if word in valued and (value := next(words, None)) is not None else word for word in words
    ]


def _from_environment(stage: type[Stage]) -> dict[str, str]:
    from histocast.stages.stage import FromEnvironment

    marks = {
        _key(name, field): mark.variable
        for name, field in stage.model_fields.items()
        for mark in field.metadata
        if isinstance(mark, FromEnvironment)
    }
    return {key: os.environ[variable] for key, variable in marks.items() if os.environ.get(variable)}


def _faults(error: ValidationError, stage: type[Stage]) -> Iterator[str]:
    """What is wrong with the options, one line each."""
    fields = {_key(name, field): field for name, field in stage.model_fields.items()}
    for fault in error.errors():
        key = str(fault["loc"][0]) if fault["loc"] else ""
        option = f"--{key.replace('_', '-')}"
        if fault["type"] == "missing":
            yield f"{option} is missing: {fields[key].description}"
        elif key:
            yield f"{option} {fault['input']}: {fault['msg']}"
        else:
            yield str(fault["ctx"]["error"])
