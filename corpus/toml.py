"""Settings as TOML: the one reader that turns a table into a frozen dataclass, with one set of error messages.

Every unknown key, missing key and wrong type is refused by name. A whole number is accepted where a float is asked for.
"""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

Record = TypeVar("Record")
KINDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false", list: "a list"}


def read_toml(path: Path, record: type[Record]) -> Record:
    """Read a file into a record; errors name the file.

    Raises:
        ValueError: the file cannot be read, or holds an unknown key, a wrong type or a value its record refuses.
    """
    table = load_toml(path)
    try:
        return fill(record, table)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def load_toml(path: Path) -> dict[str, Any]:
    """The tables of a file, unchecked."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as TOML: {error}") from error


def write_toml(record: Any) -> str:
    """The TOML text that `read_toml` turns back into an equal record; values of None are left out."""
    return tomli_w.dumps({k: v for k, v in dataclasses.asdict(record).items() if v is not None})


def fill(
    record: type[Record], table: Mapping[str, Any], where: str = "", given: Mapping[str, Any] | None = None
) -> Record:
    """Make a record from a table.

    Args:
        where: name of the table, for messages; empty for the top level.
        given: fields whose values do not come from TOML; the table may not hold them.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Units:
    ...     clusters: int = 501
    >>> fill(Units, {"clusters": 100}, "units")
    Units(clusters=100)
    >>> fill(Units, {"clustres": 100}, "units")
    Traceback (most recent call last):
    ValueError: [units]: unknown key 'clustres'; known: clusters; did you mean 'clusters'?
    """
    given = given or {}
    items = [item for item in dataclasses.fields(record) if item.init and item.name not in given]  # type: ignore[arg-type]
    title = f"[{where}]: " if where else ""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: need a table [{where}], got {table!r}")
    if unknown := sorted(table.keys() - {item.name for item in items}):
        known = [item.name for item in items]
        raise ValueError(
            f"{title}{_keys('unknown', unknown)}; known: {', '.join(known)}{suggest(unknown, known)}"
        )
    nothing = dataclasses.MISSING
    needed = [i.name for i in items if i.default is nothing and i.default_factory is nothing]
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"{title}{_keys('missing', missing)}")
    kinds = typing.get_type_hints(record)
    values = {
        name: _typed(kinds[name], value, f"{where}.{name}" if where else name)
        for name, value in table.items()
    }
    return record(**given, **values)


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value outside the list, naming the list."""
    if value not in known:
        raise ValueError(f"{name}: need one of {', '.join(known)}, got {value!r}{suggest([value], known)}")


def suggest(given: Iterable[object], known: Sequence[str]) -> str:
    """The known names that mistyped ones are close to, as the end of a message; empty where none is close.

    >>> suggest(["clustres"], ["clusters", "seed"]), suggest(["x"], ["clusters"])
    ("; did you mean 'clusters'?", '')
    """
    close = [name for one in given for name in difflib.get_close_matches(str(one), known, n=1, cutoff=0.7)]
    return f"; did you mean {', '.join(map(repr, dict.fromkeys(close)))}?" if close else ""


def _keys(adjective: str, names: list[str]) -> str:
    return f"{adjective} key{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _typed(kind: Any, value: Any, where: str) -> Any:
    """A TOML value as its annotation says, or a refusal."""
    outer, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if outer is Any:
        return value
    if outer in (types.UnionType, typing.Union):  # X | None: TOML has no null, so a value is an X
        return _typed(next(one for one in inner if one is not types.NoneType), value, where)
    if dataclasses.is_dataclass(outer):
        return fill(typing.cast(type, outer), value, where)
    if outer is tuple or outer is list:
        return outer(_list(inner, value, where))
    if isinstance(outer, type) and issubclass(outer, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: need a table [{where}], got {value!r}")
        return {key: _typed(inner[1] if inner else Any, one, f"{where}.{key}") for key, one in value.items()}
    if outer is float and type(value) is int:
        return float(value)
    if type(value) is not outer:
        raise ValueError(f"{where}: need {KINDS[outer]}, got {value!r}")
    return value


def _list(kinds: tuple[Any, ...], value: Any, where: str) -> list[Any]:
    """The items of a TOML array; tables in it are counted from 1."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: need a list, got {value!r}")
    if len(kinds) > 1 and kinds[-1] is not Ellipsis:
        if len(value) != len(kinds):
            raise ValueError(f"{where}: need {len(kinds)} values, got {value!r}")
    else:
        kinds = (kinds[0] if kinds else Any,) * len(value)
    return [
        _typed(kind, one, f"{where} {number}" if dataclasses.is_dataclass(kind) else where)
        for number, (kind, one) in enumerate(zip(kinds, value, strict=True), start=1)
    ]
