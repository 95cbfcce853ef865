"""A program's settings: one frozen dataclass, read from flags and from a TOML file, checked at once.

    @dataclass(frozen=True)
    class Settings:
        data: str = option(help="folder of the data set")
        epochs: int = option(30, help="passes over the data", at_least=1)

Each field is a flag of the same name, with dashes. A TOML file has a table for each program (`[train]`), so one file
serves all programs. Flags win over the file, the file over the defaults. Decision 24 says why no library does this.
"""

import argparse
import contextlib
import dataclasses
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from boceto.errors import SettingsError
from boceto.stores.file import regular

T = TypeVar("T")
PROGRAMS = ("demo", "prepare", "train", "eval", "predict", "inspect", "preflight", "verify-resume", "submit")
TEXTS = tuple[str, ...]  # A list in TOML, a repeated flag on the command line.
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")
_BITS = 63  # What counts steps and records on a device.
_LARGEST = 3.4e38  # float32 holds no larger number, and devices compute with it.


def option(  # noqa: PLR0913 - what help and check need
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str | int] | None = None,
    positional: bool = False,
    listed: bool = False,
) -> Any:
    """A dataclass field with the help and the bounds of its setting; without a default the setting is required.

    The command line gives a `positional` setting without its name, and repeats the flag of a setting of type `TEXTS`.
    A `listed` setting is a text with commas or in lines, or a list in TOML.
    """
    metadata = {"help": help, "at_least": at_least, "at_most": at_most, "choices": choices, "positional": positional}
    return dataclasses.field(default=default, metadata=metadata | {"listed": listed})


def fixed(value: Any) -> Any:
    """A dataclass field that this program does not let people set: it inherits the setting from another program."""
    return dataclasses.field(default=value, metadata={"fixed": True})


def _settings(cls: Any) -> list[dataclasses.Field[Any]]:
    """Returns the fields that people may set."""
    return [field for field in dataclasses.fields(cls) if "fixed" not in field.metadata]


def _plain_type(annotation: Any) -> Any:
    """Returns the type `X` of `X` or `X | None`."""
    if isinstance(annotation, types.UnionType):
        return next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    return annotation


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: Any = None) -> None:  # argparse passes over an output that takes nothing.
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{message}; see `{self.prog} --help`")


class _Formatter(argparse.HelpFormatter):
    """Shows a positional setting without brackets: it is required, here or in the TOML file."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.OPTIONAL and not action.option_strings:
            return str(action.metavar)
        return super()._format_args(action, default_metavar)


def _parser(verb: str, table: str, cls: type, description: str) -> _Parser:
    parser = _Parser(prog=f"boceto {verb}", description=description, allow_abbrev=False, formatter_class=_Formatter)
    parser.add_argument("--config", metavar="FILE.toml", help=f"settings as TOML, in a table [{table}]; flags win")
    parser.add_argument("--json", action="store_true", help="one machine-readable result on standard output")
    hints = typing.get_type_hints(cls)
    for field in _settings(cls):
        kind = _plain_type(hints[field.name])
        required = field.default is dataclasses.MISSING
        shown = "required" if required else f"default: {_shown(field.default)}"
        text = f"{field.metadata['help']} ({shown})".replace("%", "%%")
        flag = "--" + field.name.replace("_", "-")
        if field.metadata["positional"]:
            parser.add_argument(field.name, nargs="?", default=None, help=text, metavar=field.name.upper())
        elif kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = "|".join(map(str, field.metadata["choices"])) if field.metadata["choices"] else None
            action = "append" if kind == TEXTS else "store"
            parser.add_argument(flag, action=action, default=None, help=text, metavar=metavar)
    return parser


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value not in ("", ()) else "empty"


def _read_table(path: str, verb: str) -> dict[str, Any]:
    try:
        tables = tomllib.loads(regular(Path(path)).read_text("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}; give a readable TOML file") from error
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no TOML, or a number of 4,300 digits.
        raise SettingsError(f"--config {path} is not TOML: {error}") from error
    for name, table in tables.items():
        if name not in PROGRAMS or not isinstance(table, dict):
            raise SettingsError(f"--config {path}: unknown table {name!r}; the tables are {', '.join(PROGRAMS)}")
    table = {key.replace("-", "_"): value for key, value in tables.get(verb, {}).items()}
    if len(table) != len(tables.get(verb, {})):
        raise SettingsError(f"--config {path}: [{verb}] names a setting twice, with a dash and with an underscore")
    return table


def _converted(where: str, value: Any, kind: Any, *, listed: bool) -> Any:
    """Returns `value`, a flag's text or a TOML value, as `kind`: str, int, float, bool or `TEXTS`."""
    if listed and isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    if isinstance(value, str) and kind in (int, float):
        with contextlib.suppress(ValueError):
            value = kind(value)
    if isinstance(value, int) and value.bit_length() > _BITS:
        raise SettingsError(f"{where} has more than {_BITS} bits; use a smaller number")
    takes = {TEXTS: (), int: (int,), float: (int, float), str: (str, int, float), bool: (bool,)}[kind]
    if isinstance(value, takes) and isinstance(value, bool) == (kind is bool):
        return kind(value)
    if kind == TEXTS and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", TEXTS: "a list of texts"}
    a_list = "a list, " if isinstance(value, list) and kind != TEXTS else ""
    raise SettingsError(f"{where} = {value!r} is {a_list}not {names[kind]}")


def _check(where: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if value is None:
        return
    for text in value if isinstance(value, tuple) else [value]:
        if isinstance(text, str) and _CONTROL.search(text.replace("\n", "") if metadata["listed"] else text):
            raise SettingsError(f"{where} = {text!r} is not readable text: it has a control character; rename it")
    choices, low, high = metadata["choices"], metadata["at_least"], metadata["at_most"]
    if choices and value not in choices:
        raise SettingsError(f"{where} = {value!r} is unknown; choose one of {', '.join(map(str, choices))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{where} = {value} is not a finite number; give one")
    if low is not None and not value >= low:
        raise SettingsError(f"{where} = {value} is too small; use at least {low}")
    if isinstance(value, float):
        high = _LARGEST if high is None else high
    if high is not None and not value <= high:
        raise SettingsError(f"{where} = {value} is too large; use at most {high}")


def build(cls: type[T], verb: str, given: Mapping[str, Any], source: str = "settings") -> T:
    """Returns the settings `cls` with the values `given`, each a text or of its type.

    Raises:
        SettingsError: a name is unknown; a value is missing, of another type or out of its range.
    """
    fields = {field.name: field for field in _settings(cls)}
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise SettingsError(
            f"{source}: unknown setting {verb}.{unknown[0]}; the settings are {', '.join(sorted(fields))}"
        )
    values: dict[str, Any] = {}
    for name, field in fields.items():
        where = f"{verb}.{name}"
        if name in given:
            values[name] = _converted(where, given[name], _plain_type(hints[name]), listed=field.metadata["listed"])
        if field.default is dataclasses.MISSING and values.get(name, "") == "":
            flag = name.upper() if field.metadata["positional"] else f"--{name.replace('_', '-')}"
            raise SettingsError(f"{where} is missing; give {flag}")
        values.setdefault(name, field.default)
        _check(where, values[name], field.metadata)
    return cls(**values)


def from_text(cls: type[T], text: str, where: str) -> T:
    """Returns the settings `cls` from "name=value, name=value".

    Raises:
        SettingsError: as `build`, or the text has another form, or gives a name twice.
    """
    given: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.replace("\n", ",").split(","))):
        name, is_there, value = (word.strip() for word in part.partition("="))
        if not is_there:
            raise SettingsError(f"{where} = {text!r}: {part!r} has no value; write name=value, name=value")
        if name in given:
            raise SettingsError(f"{where} = {text!r} gives {name!r} twice; give it once")
        given[name] = value
    return build(cls, where, given, where)


def to_flags(settings: Any) -> list[str]:
    """Returns the command line of `settings`: `["--epochs", "30", "--no-flip", ...]`."""
    words: list[str] = []
    for field in _settings(settings):
        flag, value = field.name.replace("_", "-"), getattr(settings, field.name)
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            for text in value if isinstance(value, tuple) else [value]:
                words += [f"--{flag}", str(text)]
    return words


@dataclasses.dataclass(frozen=True)
class Invocation(Generic[T]):
    """A command line. json: print the result as JSON; rest: the words behind `--`."""

    settings: T
    json: bool
    rest: tuple[str, ...]


def parse(  # noqa: PLR0913 - what a command line needs
    cls: type[T],
    verb: str,
    argv: Sequence[str],
    description: str,
    base: str = "",
    *,
    beside: Sequence[type] = (),
    hands_on: bool = False,
) -> Invocation[T]:
    """Reads a program's command line. `--help` prints and raises SystemExit(0).

    verb: its first word names the table in the TOML file, as in `submit run`.
    base: another program, whose table in the TOML file gives the values that this program's table lacks.
    beside: settings of other verbs that share the table; they are ignored.
    hands_on: the program uses the words behind `--`.

    Raises:
        SettingsError: as `build`, or a flag or the file cannot be read.
    """
    words = list(argv)
    cut = words.index("--") if "--" in words else len(words)
    if words[cut + 1 :] and not hands_on:
        raise SettingsError(f"boceto {verb} has no use for what stands behind `--`: {words[cut + 1]!r}; leave it out")
    table = verb.partition(" ")[0]
    flags = vars(_parser(verb, table, cls, description).parse_args(words[:cut]))
    config, as_json = flags.pop("config"), flags.pop("json")
    given: dict[str, Any] = {}
    if config is not None:
        others = {field.name for each in beside for field in _settings(each)} - {field.name for field in _settings(cls)}
        read = (_read_table(config, base) if base else {}) | _read_table(config, table)
        given = {name: value for name, value in read.items() if name not in others}
    given.update({name: value for name, value in flags.items() if value is not None})
    return Invocation(build(cls, table, given, config or "settings"), as_json, tuple(words[cut + 1 :]))
