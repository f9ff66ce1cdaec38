"""The clients whose plugins come from their own package manager: TypeScript (npm) and Go.

A plugin has the version of the runtime it generates for, as the client's own lock file says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.message import Message
from toolchains import go_install, npm_install

Protoc = Callable[..., None]

TYPESCRIPT = Path("clients/typescript/src/gen")
GO = Path("clients/go/v1")
_GO_MODULE = "n8ngateway"
_GO_COMMANDS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go",
    "connectrpc.com/connect/cmd/protoc-gen-connect-go",
)
# In Go these come with genproto.
_SHARED = ("google/api/httpbody.proto", "google/rpc/error_details.proto", "google/rpc/status.proto")


def bare_descriptors(
    serialized: bytes, error_details: descriptor_pb2.FileDescriptorProto, package: str
) -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors without options for servers (rules, HTTP routes), and so without their files.

    What the clients need to read errors, `error_details`, is added.
    """
    files = descriptor_pb2.FileDescriptorSet.FromString(serialized)
    kept = [file for file in files.file if file.name.startswith(("google/protobuf/", package, *_SHARED))]
    names = {file.name for file in kept}
    for file in kept:
        dependencies = [name for name in file.dependency if name in names]
        file.ClearField("dependency")
        file.dependency.extend(dependencies)
        for options in _options(file):
            options.DiscardUnknownFields()
            for field, _ in options.ListFields():
                if field.is_extension:
                    options.ClearExtension(field)
        if file.name.startswith(package):
            file.options.go_package = f"{_GO_MODULE}/v1;n8ngatewayv1"
    if error_details.name not in names:
        kept.append(error_details)
    return descriptor_pb2.FileDescriptorSet(file=kept)


def _options(message: Message) -> Iterator[Message]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in value if field.is_repeated else [value]:
            if field.name == "options":
                yield child
            else:
                yield from _options(child)


def generate_typescript(root: Path, out: Path, protoc: Protoc, names: list[str]) -> None:
    """Write messages and services with protoc-gen-es; MissingToolchainError where it cannot be had."""
    plugin = npm_install(root / "clients/typescript") / ".bin/protoc-gen-es"
    protoc(
        f"--plugin=protoc-gen-es={plugin}",
        f"--es_out={out / TYPESCRIPT}",
        "--es_opt=target=ts,import_extension=js",
        *names,
        *_SHARED,
    )


def generate_go(root: Path, out: Path, protoc: Protoc, names: list[str]) -> None:
    """Write messages and connect-go's services; MissingToolchainError where the plugins cannot be had."""
    plugins = root / ".cache/go-plugins"
    go_install(root / "clients/go", plugins, *_GO_COMMANDS)
    directory = out / GO.parent
    protoc(
        f"--plugin={plugins / 'protoc-gen-go'}",
        f"--plugin={plugins / 'protoc-gen-connect-go'}",
        f"--go_out={directory}",
        f"--go_opt=module={_GO_MODULE}",
        f"--connect-go_out={directory}",
        f"--connect-go_opt=module={_GO_MODULE},simple",
        *names,
    )
