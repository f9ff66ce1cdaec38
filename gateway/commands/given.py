"""What an option is given as: its text, `@FILE` for a file's, or `@-` for that of standard input."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any, BinaryIO

import typer

_STANDARD_INPUT = "@-"
_CREDENTIALS = {
    *("authorization", "proxy-authorization", "cookie", "x-api-key", "x-platform-token"),
    *("x-n8n-internal-auth", "x-gateway-execution-token"),
}
_FRAMING = {
    *("content-length", "content-type", "content-encoding", "transfer-encoding", "connection"),
    *("te", "trailer", "upgrade"),
}
_MOST_BYTES = 64 << 20
# RFC 9110, 5.6.2, in lower case. Those ending with -bin would be no text over gRPC.
_HEADER_NAME = re.compile(r"(?!.*-bin$)[!#$%&'*+.^_`|~0-9a-z-]+")
_PASSWORD = re.compile(r"://[^@]*:[^@]+@|[?&](ssl)?password=", re.IGNORECASE)
_SEEN = "everybody on this machine sees a command line"


def text(context: typer.Context, parameter: typer.CallbackParam, value: str) -> bytes:
    """The text of an option. Raises BadParameter; also where two options are standard input."""
    if value == _STANDARD_INPUT:
        _take_standard_input(context, parameter)
        return _bounded(sys.stdin.buffer)
    if not value.startswith("@"):
        return value.encode(errors="surrogateescape")
    try:
        with Path(value[1:]).open("rb") as file:
            return _bounded(file)
    except OSError as error:
        raise typer.BadParameter(f"{value[1:]} cannot be read: {error.strerror}") from None


def secret(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """A secret, without space around it. On a command line everybody on the machine would see it.

    Raises BadParameter.
    """
    if value is None:
        return None
    if _is_on_command_line(context, parameter, value):
        raise typer.BadParameter(f"{_SEEN}: set {parameter.envvar}, or give @FILE or @-")
    read = text(context, parameter, value).strip()
    if not (read and read.isascii() and read.decode().isprintable()):
        raise typer.BadParameter("must be one line of ASCII characters")
    context.meta[_where(str(parameter.name))] = value
    return read.decode()


def in_shell(context: typer.Context, option: str) -> str:
    """A word that a POSIX shell expands to the secret of an option, found again where it was given.

    Raises BadParameter for standard input, which has been read.
    """
    [parameter] = [known for known in context.command.params if known.name == option]
    given = context.meta[_where(option)]
    if given == _STANDARD_INPUT:
        raise typer.BadParameter(
            f"the command that is printed cannot read it again: set {parameter.envvar}, or give @FILE",
            param_hint=parameter.opts[0],
        )
    if given.startswith("@"):
        return f'"$(cat < {shlex.quote(given[1:])})"'
    return f'"${parameter.envvar}"'


def secret_option(variable: str, what: str) -> Any:
    """An option that is a secret, and may be given in an environment variable."""
    told = f"{what}: in the environment, @FILE, or @- for standard input."
    return typer.Option(envvar=variable, callback=secret, help=told)


def database(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """The URL of a database, which is a secret where it holds a password. Raises BadParameter."""
    if _is_on_command_line(context, parameter, value) and _PASSWORD.search(value):
        raise typer.BadParameter(
            f"holds a password, and {_SEEN}: set {parameter.envvar}, or give @FILE or @-"
        )
    url = text(context, parameter, value).decode(errors="replace").strip()
    if not url:
        raise typer.BadParameter("must not be empty")
    return url


def database_option(as_whom: str) -> Any:
    """An option that is the URL of a database."""
    told = (
        f"The database, as {as_whom}. With a password: in the environment, @FILE, or @- for standard input."
    )
    return typer.Option(envvar="DATABASE_URL", callback=database, help=told)


def file(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """The name of a file; `-` is standard input, which no other option can be then. Raises BadParameter."""
    if value == "-":
        _take_standard_input(context, parameter)
    return value


def headers(
    context: typer.Context, parameter: typer.CallbackParam, values: list[str] | None
) -> list[tuple[str, str]]:
    """Headers by lower-case name, from `Name: value` or files with such lines. Raises BadParameter.

    Those that tell who calls come from files alone, as secrets do.
    """
    found = []
    for value in values or []:
        for line in filter(str.strip, text(context, parameter, value).decode(errors="replace").splitlines()):
            name, colon, told = line.partition(":")
            if not (colon and name.strip()):
                raise typer.BadParameter("must look like 'Name: value'")
            name, told = name.strip().lower(), told.strip()
            if name in _CREDENTIALS and not value.startswith("@"):
                raise typer.BadParameter(f"{_SEEN}: give {name} in @FILE, or @-")
            if name in _FRAMING:
                raise typer.BadParameter(f"must not be {name}, which follows from the request")
            if not (_HEADER_NAME.fullmatch(name) and told.isascii() and told.isprintable()):
                raise typer.BadParameter("must be a header's name and one line of ASCII characters")
            found.append((name, told))
    return found


def _bounded(file: BinaryIO) -> bytes:
    read = file.read(_MOST_BYTES + 1)
    if len(read) > _MOST_BYTES:
        raise typer.BadParameter(f"is over {_MOST_BYTES >> 20} MiB")
    return read


def _is_on_command_line(context: typer.Context, parameter: typer.CallbackParam, value: str) -> bool:
    source = context.get_parameter_source(str(parameter.name))
    return source is not None and source.name == "COMMANDLINE" and not value.startswith("@")


def _take_standard_input(context: typer.Context, parameter: typer.CallbackParam) -> None:
    reader = context.meta.setdefault(__name__, parameter)
    if reader is not parameter:
        raise typer.BadParameter(f"reads standard input, and so does {reader.opts[0]}")


def _where(option: str) -> str:
    return f"{__name__}.{option}"
