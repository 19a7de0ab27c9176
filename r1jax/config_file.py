"""Configurations in files: JSON, as a run keeps its own, and YAML, as people write them."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import dacite
import yaml

from r1jax.checks import InputError, check, nearest
from r1jax.files import write_whole

Config = TypeVar("Config")


def save_config(config, path: Path) -> None:
    """Writes a configuration, nested ones included, as JSON."""
    write_whole(path, json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def load_config(kind: type[Config], path: str | Path, over: Config | None = None) -> Config:
    """Reads what `save_config` wrote, or a .yaml of the same fields. With `over`, a file may have
    some of the fields only, and the others are as there.

    Raises InputError that names the file and the field.
    """
    try:
        values = _read(Path(path))
        check(isinstance(values, dict), "expected an object of fields")
        if over is not None:
            values = _merged(over, values, "")
        return from_values(kind, values)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, dacite.DaciteError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error


def from_values(kind: type[Config], values: dict[str, Any]) -> Config:
    """A configuration of `dataclasses.asdict`'s values. Raises dacite's errors, and InputError."""
    hooks: dict[Any, Any] = {int: partial(_number, int), float: partial(_number, float), str: _text}
    return dacite.from_dict(kind, values, dacite.Config(strict=True, type_hooks=hooks))


def _number(kind: type, value: Any) -> Any:
    """To Python `true` is a number; to YAML 3e-6 is a text."""
    if isinstance(value, bool):
        raise dacite.WrongTypeError(kind, value)
    try:
        return float(value) if kind is float and isinstance(value, str) else value
    except ValueError:
        raise dacite.WrongTypeError(kind, value) from None


def _text(value: Any) -> Any:
    """To YAML the mesh 8 and the tier 4 are numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def fields_of(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a configuration by dotted names, as the flags have them: {"optim.lr": 3e-4}."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cfg):
        value, name = getattr(cfg, field.name), prefix + field.name
        found |= fields_of(value, f"{name}.") if dataclasses.is_dataclass(value) else {name: value}
    return found


def with_fields(cfg: Config, changes: Mapping[str, Any]) -> Config:
    """`cfg` with the fields of these dotted names changed.

    Raises InputError for a field that there is not, naming the nearest, for a value of another
    type, and for what the configuration refuses.
    """
    known = fields_of(cfg)
    values = dataclasses.asdict(cfg)  # type: ignore[call-overload]
    for name, value in changes.items():
        check(name in known, f"no field {name}{_meant(name, known)}")
        *path, last = name.split(".")
        inner, holder = values, cfg
        for part in path:
            inner, holder = inner[part], getattr(holder, part)
        kinds = get_type_hints(type(holder))[last]
        kinds = get_args(kinds) if isinstance(kinds, UnionType) else (kinds,)
        whole = isinstance(value, int) and not isinstance(value, bool)
        inner[last] = float(value) if whole and float in kinds and int not in kinds else value
    try:
        return from_values(type(cfg), values)
    except dacite.DaciteError as error:
        raise InputError(" ".join(str(error).split())) from error


def _meant(name: str, known: Iterable[str]) -> str:
    """lr is the end of optim.lr; corpus is the beginning of several."""
    known = list(known)
    inside = [one for one in known if one.startswith(f"{name}.")]
    if inside:
        return f": it is a group of fields, such as {inside[0]}"
    ends = [one for one in known if one.rpartition(".")[2] == name.rpartition(".")[2]]
    meant = ends or nearest(name, known)
    return f": did you mean {' or '.join(meant)}?" if meant else ""


def _read(path: Path) -> Any:
    text = path.read_text()
    if path.suffix in (".yaml", ".yml"):
        return yaml.load(text, _Yaml)
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        as_yaml = "" if path.suffix == ".json" else "; YAML is read from .yaml and .yml"
        raise InputError(f"not JSON: {error}{as_yaml}") from error


class _Yaml(yaml.SafeLoader):
    """As YAML says, names are given once."""

    def construct_mapping(self, node, deep=False):
        _once([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, times in Counter(name for name, _ in pairs).items():
        check(times == 1, f"{name} is given {times} times")
    return dict(pairs)


def _merged(over: Any, values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The fields of the dataclass `over` as a dict, with those in `values` in their place."""
    known = {f.name: getattr(over, f.name) for f in dataclasses.fields(over)}
    merged = dataclasses.asdict(over)
    for name, value in values.items():
        if name not in known:
            group, dot, field = str(name).partition(".")
            meant = "".join(f": did you mean {prefix}{n}?" for n in nearest(str(name), known))
            meant = f": write {group}: {{{field}: ...}}" if dot and group in known else meant
            raise InputError(f"no field {prefix}{name}{meant}")
        nested = known[name]
        if dataclasses.is_dataclass(nested) and isinstance(value, dict):
            # The fields of another kind of attention take the place of all of this one's.
            same = name != "attention" or set(value) <= {f.name for f in dataclasses.fields(nested)}
            value = _merged(nested, value, f"{prefix}{name}.") if same else value
        merged[name] = value
    return merged
