"""Rates: so many requests in so many seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

MOST_REQUESTS = 1_000_000
PERIODS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def parse_rate(text: str) -> tuple[int, int]:
    """`30/minute` as requests and seconds. Raises ValueError."""
    requests, _, period = text.partition("/")
    if not requests.isdecimal() or not 1 <= int(requests) <= MOST_REQUESTS or period not in PERIODS:
        msg = f"must look like 30/minute, with one of: {', '.join(PERIODS)}"
        raise ValueError(msg)
    return int(requests), PERIODS[period]


def _rate(value: object) -> object:
    return parse_rate(str(value)) if isinstance(value, str | int) else value


def _rate_or_off(value: object) -> object:
    return None if value == "off" else _rate(value)


Rate = Annotated[tuple[int, int], NoDecode, BeforeValidator(_rate)]
RateOrOff = Annotated[tuple[int, int] | None, NoDecode, BeforeValidator(_rate_or_off)]
