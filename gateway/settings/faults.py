"""What is wrong with an environment, in words for who set it: never the value of a setting."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.fields import FieldInfo

_ALIKE = 0.85
"""How much of a name must agree with a setting's: `SUPABASE_ANON` is a slip, `N8N_HOST` another's."""
_SHORTEST = 6

_WORDS = {
    "missing": "is missing",
    "bool_parsing": "must be true or false",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
}


class SettingsError(Exception):
    """The environment does not add up. The message names every fault at once.

    `faults` are those of single settings, by their names.
    """

    def __init__(self, message: str = "", *, faults: Mapping[str, str] | None = None) -> None:
        self.faults = dict(faults or {})
        super().__init__(message or "\n".join(f"{name} {fault}" for name, fault in self.faults.items()))


def faults(error: ValidationError, model: type[BaseModel]) -> dict[str, str]:
    """What is wrong with each setting, by its name: what is expected, and its default or an example."""
    fields = {name: field for key, field in model.model_fields.items() for name in names_of(key, field)}
    told = {}
    for fault in error.errors(include_url=False, include_input=False):
        name = str(fault["loc"][0]).upper()
        told[name] = _told(fault["type"], fault["msg"], fault.get("ctx", {}), fields[name])
    return told


def names_of(name: str, field: FieldInfo) -> list[str]:
    """The names of a setting in the environment, the documented one first."""
    alias = field.validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [name.upper()]


def _told(kind: str, message: str, context: Mapping[str, Any], field: FieldInfo) -> str:
    if kind not in _WORDS:
        return message.removeprefix("Value error, ")
    words = _WORDS[kind].format(**context).replace("'", "")
    if kind == "missing":
        return f"{words}: {field.description}" if field.description else words
    default = field.default.value if isinstance(field.default, Enum) else field.default
    return words if default is None or isinstance(default, bool) else f"{words} (by default it is {default})"


def mistyped(given: Iterable[str], settings: Collection[Collection[str]]) -> dict[str, str]:
    """Names that are no setting's and probably meant as one, each with that one's.

    `settings` are the names of each setting, in upper case as `given`. A setting that is given under one of
    its names is not missed, so what looks like it is another program's.
    """
    names = set(given)
    known = {name for aliases in settings for name in aliases}
    missed = [
        name
        for aliases in settings
        if names.isdisjoint(aliases)
        for name in aliases
        if len(name) >= _SHORTEST
    ]
    slips = {}
    for name in sorted(names - known):
        for near in get_close_matches(name, missed, n=1, cutoff=_ALIKE):
            if near[0] == name[0]:
                slips[name] = near
    return slips
