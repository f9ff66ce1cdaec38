"""Lists: a comma-separated one or a JSON array."""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return tuple(json.loads(value))
        except json.JSONDecodeError as error:
            msg = f"is neither a comma-separated list nor a JSON array: {error}"
            raise ValueError(msg) from None
    return tuple(part.strip() for part in value.split(",") if part.strip())


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
