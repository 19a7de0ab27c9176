"""Configurations in files: JSON, as a run keeps its own, and YAML, as people write them."""

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

import dacite
import yaml

from r1jax.config import InputError, check, nearest

Config = TypeVar("Config")


def save_config(config, path: Path) -> None:
    """Writes a configuration, nested ones included, as JSON; under another name first, so that a
    kill leaves the old file or the new one."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")
    partial.replace(path)


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
        # YAML reads 3e-6 as text.
        hooks = {float: lambda x: float(x) if isinstance(x, str) else x}
        return dacite.from_dict(kind, values, dacite.Config(strict=True, type_hooks=hooks))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, dacite.DaciteError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from error


def _read(path: Path) -> Any:
    text = path.read_text()
    return yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)


def _merged(over: Any, values: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The fields of the dataclass `over` as a dict, with those in `values` in their place."""
    known = {f.name: getattr(over, f.name) for f in dataclasses.fields(over)}
    merged = dataclasses.asdict(over)
    for name, value in values.items():
        if name not in known:
            meant = "".join(f": did you mean {prefix}{n}?" for n in nearest(str(name), known))
            raise InputError(f"no field {prefix}{name}{meant}")
        nested = known[name]
        if dataclasses.is_dataclass(nested) and isinstance(value, dict):
            # The fields of another kind of attention take the place of all of this one's.
            same = name != "attention" or set(value) <= {f.name for f in dataclasses.fields(nested)}
            value = _merged(nested, value, f"{prefix}{name}.") if same else value
        merged[name] = value
    return merged
