"""Everything that the environment can say to the gateway. Nothing else reads it."""

from gateway.settings.faults import SettingsError
from gateway.settings.rates import Rate, RateOrOff, parse_rate
from gateway.settings.secrets import parse_vault_keys, plain
from gateway.settings.settings import Environment, Settings

__all__ = [
    "Environment",
    "Rate",
    "RateOrOff",
    "Settings",
    "SettingsError",
    "parse_rate",
    "parse_vault_keys",
    "plain",
]
