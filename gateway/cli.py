"""The command `n8n-gateway`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TypeVar

import structlog
import typer
import uvloop
from rich.console import Console
from rich.markup import escape

from gateway import logs
from gateway.adapters.postgres import migrations
from gateway.adapters.postgres.migrations import MigrationError
from gateway.commands import given, platform
from gateway.commands.call import call
from gateway.commands.credits import application as credits_application
from gateway.commands.keys import application as keys_application
from gateway.commands.signing import RequestError, sign
from gateway.rpc.errors import RpcError
from gateway.settings import Settings, SettingsError
from gateway.workers import CANNOT_SERVE, WorkerError, Workers, stop_with_parent

_MOST_WORKERS = 256
_FULL = {errno.ENOSPC, errno.EDQUOT}

application = typer.Typer(
    name="n8n-gateway",
    help="A multi-tenant gateway in front of private n8n instances: gRPC, Connect and REST.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # which cuts long names to fit its columns
)
application.add_typer(platform.application, name="platform")
application.add_typer(credits_application, name="credits")
application.add_typer(keys_application, name="keys")
application.command()(call)
application.command()(sign)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        sys.stdout.write(f"n8n-gateway {version('n8n-gateway')}\n")
        sys.stdout.flush()
        raise typer.Exit


@application.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


T = TypeVar("T")


class LogLevel(StrEnum):
    """From which level up lines are logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class ClerkRole(StrEnum):
    """What a user is in a Clerk organization."""

    ADMIN = "admin"
    MEMBER = "member"


def _not_empty(value: str) -> str:
    if not value.strip():
        raise typer.BadParameter("must not be empty")
    return value


class Failure(Exception):
    """Something that the user has to mend; shown without a traceback."""


class _EndedError(Failure):
    """A gateway that served, and does no longer. To start it again may help."""


@application.command()
def serve(
    workers: Annotated[
        int, typer.Option(min=1, max=_MOST_WORKERS, help="Processes that share the ports: one for each core.")
    ] = 1,
) -> None:
    """Serve, as the environment says (or `.env`). Stop with SIGTERM: running calls may finish.

    docs/settings.md lists the settings, docs/setup.md goes through them step by step.
    """
    settings = Settings.load()
    logs.configure(settings.log_level, settings.log_format)
    _run(_serve(settings) if workers == 1 else _serve_by(workers, settings))


@application.command()
def dev(  # noqa: PLR0917 - one parameter for each option
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of REST, Connect and gRPC-Web; 0 for a free one.")
    ] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of gRPC; 0 for a free one.")] = 50051,
    data_dir: Annotated[
        Path, typer.Option(help="Where the data lives; found again by the next start.")
    ] = Path(".n8n-gateway"),
    ready_file: Annotated[
        Path | None, typer.Option(help="Write URLs, token and ids to this file as JSON, once all serves.")
    ] = None,
    n8n_url: Annotated[str | None, typer.Option(help="A real n8n in place of the demo one.")] = None,
    n8n_internal_secret: Annotated[
        str | None,
        given.secret_option("N8N_INTERNAL_AUTH_SECRET", "What that n8n expects in X-N8N-Internal-Auth"),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin whose pages may call, such as http://localhost:3000; can be given again."),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(case_sensitive=False)] = LogLevel.WARNING,
) -> None:
    """Serve with everything that is needed, on this machine alone: for trying out and developing."""
    from gateway.local.dev import DevOptions  # noqa: PLC0415 - the embedded parts are an optional dependency

    logs.configure(log_level, "text")
    origins = tuple(cors_origin) if cors_origin else None
    internal_secret = None if n8n_url is None else n8n_internal_secret
    options = DevOptions(data_dir, http_port, grpc_port, n8n_url, internal_secret, origins)
    _run(_dev(options, ready_file))


@application.command()
def token(
    user: Annotated[
        str,
        typer.Option(help="Who the token is for: any name, such as user_two.", callback=_not_empty),
    ],
    *,
    clerk_organization: Annotated[
        str | None, typer.Option(help="The Clerk organization that it names, such as org_dev.")
    ] = None,
    role: Annotated[ClerkRole, typer.Option(help="The user's role there.")] = ClerkRole.MEMBER,
    data_dir: Annotated[Path, typer.Option(help="Where the data of that `dev` lives.")] = Path(
        ".n8n-gateway"
    ),
) -> None:
    """Print a token for a user of `n8n-gateway dev`, good for twelve hours. No other gateway takes it."""
    from gateway.local.errors import LocalError  # noqa: PLC0415 - the embedded parts are an optional dependency
    from gateway.local.issuer import DEV_LIFETIME, Issuer  # noqa: PLC0415

    issuer = Issuer(data_dir)
    try:
        issuer.load()
    except LocalError as error:
        raise Failure(str(error)) from None
    printed = issuer.mint(user, organization_id=clerk_organization, role=role, lifetime=DEV_LIFETIME)
    sys.stdout.write(f"{printed}\n")


@application.command()
def migrate(
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be applied, and apply nothing.")
    ] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Show what has been applied and what has not, and apply nothing.")
    ] = False,
    plain_postgres: Annotated[
        bool,
        typer.Option(
            "--plain-postgres",
            help="As a superuser: first make what a Postgres without Supabase lacks, roles and functions.",
        ),
    ] = False,
    database_url: Annotated[str, given.database_option("the owner of its schema")],
) -> None:
    """Bring a database's schema up to date, as the Supabase CLI would."""
    _run(
        _show_migrations(database_url) if status else _migrate(database_url, plan=plan, plain=plain_postgres)
    )


@application.command()
def openapi() -> None:
    """Print the OpenAPI document of the API, REST and Connect."""
    from gateway.doors.description import describe_api  # noqa: PLC0415 - for this command alone

    sys.stdout.buffer.write(describe_api())


def main() -> None:
    """Entry point. Exits with 1 and one message when something is to be mended by the user."""
    with _telling():
        _check_arguments()
        try:
            application()
        except OSError as error:
            if error.errno not in _FULL:
                raise
            if error.filename is None:
                # What could not be written is tried again when the interpreter ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Failure(f"{error.filename or 'the output'} cannot be written: {error.strerror}") from None


def _check_arguments() -> None:
    """Raise Failure for what is no text in the locale's encoding, and could be neither sent nor stored."""
    for number, argument in enumerate(sys.argv[1:], start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise Failure(f"argument {number} is not {sys.getfilesystemencoding().upper()}") from None


@contextlib.contextmanager
def _telling(status: int = 1) -> Iterator[None]:
    try:
        yield
    except (Failure, SettingsError, MigrationError, RequestError, RpcError) as error:
        Console(stderr=True).print(f"[red]error:[/] {escape(_told(error))}", highlight=False, soft_wrap=True)
        sys.exit(1 if isinstance(error, _EndedError) else status)


def _told(error: Exception) -> str:
    """An error's message, and below it the fields and facts that come with it."""
    if isinstance(error, SettingsError) and len(error.faults) > 1:
        faults = (f"{name} {fault}" for name, fault in sorted(error.faults.items()))
        return "\n  ".join(("these settings are to be mended:", *faults))
    lines = [str(error)]
    if isinstance(error, RpcError):
        fields = error.fields.items()
        lines += [f"{field} {problem}" for field, problem in fields if not lines[0].startswith(f"{field}: ")]
        lines += [f"{name} {value}" for name, value in error.metadata.items()]
    return "\n  ".join(lines)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return uvloop.run(work)


async def _serve_by(workers: int, settings: Settings) -> None:
    try:
        await Workers(_work, settings, workers).run(_on_signals())
    except (OSError, WorkerError) as error:
        raise Failure(str(error)) from None


def _work(settings: Settings) -> None:
    """Be one of several that serve."""
    with _telling(CANNOT_SERVE):
        logs.configure(settings.log_level, settings.log_format)
        _run(_serve(settings, shares_ports=True))


async def _serve(settings: Settings, *, shares_ports: bool = False) -> None:
    from gateway.app import Gateway  # noqa: PLC0415 - takes seconds, which `sign` and others need not wait

    gateway = Gateway(settings, shares_ports=shares_ports)
    stopping = _on_signals()
    stop_with_parent(stopping)
    try:
        await gateway.start()
    except OSError as error:
        raise Failure(str(error)) from None
    interrupted, died = asyncio.create_task(stopping.wait()), asyncio.create_task(gateway.died())
    done, _ = await asyncio.wait([interrupted, died], return_when=asyncio.FIRST_COMPLETED)
    died.cancel()
    structlog.get_logger("gateway").info("stopping", grace_seconds=settings.shutdown_grace_seconds)
    await gateway.stop()
    if interrupted not in done:
        raise _EndedError(f"the HTTP port is served no longer: {died.result()!r}")


async def _dev(options: Any, ready_file: Path | None) -> None:
    from gateway.local.dev import Dev  # noqa: PLC0415 - the embedded parts are an optional dependency
    from gateway.local.errors import LocalError  # noqa: PLC0415
    from gateway.local.welcome import welcome  # noqa: PLC0415

    if ready_file is not None:
        # One that a killed process left behind would tell of what is no more.
        await asyncio.to_thread(_forget, ready_file)
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    stopping = _on_signals()
    session = Dev(options, lambda part, state: console.print(f"  [dim]{part:10}[/] {state}"))
    starting = asyncio.create_task(session.start())
    interrupted = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([starting, interrupted], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        ready = await starting
    except (LocalError, OSError, RpcError) as error:
        raise Failure(str(error)) from None
    except asyncio.CancelledError:
        if stopping.is_set():
            return
        raise
    try:
        if ready_file is not None:
            ready.write(ready_file)
        sys.stdout.write(welcome(ready, options.data_dir, seconds=time.monotonic() - started))
        sys.stdout.flush()
        died = asyncio.create_task(session.stack.died())
        done, _ = await asyncio.wait([interrupted, died], return_when=asyncio.FIRST_COMPLETED)
        if died in done:
            raise Failure(str(died.result()))
        died.cancel()
    finally:
        if ready_file is not None:
            await asyncio.to_thread(ready_file.unlink, missing_ok=True)
        await session.stop()


def _forget(ready_file: Path) -> None:
    from gateway.local.dev import Ready  # noqa: PLC0415 - the embedded parts are an optional dependency

    if Ready.lives(ready_file):
        raise Failure(f"{ready_file} is of a `dev` that is running: stop that one, or name another file")
    try:
        ready_file.unlink(missing_ok=True)
    except OSError as error:
        raise Failure(f"{ready_file} cannot be written: {error.strerror}") from None
    if not ready_file.parent.is_dir():
        raise Failure(f"{ready_file} cannot be written: {ready_file.parent} is no directory")


async def _migrate(database_url: str, *, plan: bool, plain: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    pending = await migrations.plan(database_url, local=plain)
    for migration in pending:
        console.print(f"  {migration.version} {migration.name}")
    if not pending:
        console.print("The schema is up to date.")
    elif not plan:
        await migrations.apply(database_url, local=plain)
        console.print(f"Applied {len(pending)}.")


async def _show_migrations(database_url: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    entries = await migrations.status(database_url)
    for entry in entries:
        state = "applied" if entry.applied else "pending"
        console.print(f"  {state}  {entry.migration.version} {entry.migration.name}")
    applied = sum(entry.applied for entry in entries)
    console.print(f"{applied} applied, {len(entries) - applied} pending.")


def _on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set. A second SIGINT (Ctrl-C) ends the process at once."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        event.set()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with contextlib.suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGINT, interrupt)
        loop.add_signal_handler(signal.SIGTERM, event.set)
    return event
