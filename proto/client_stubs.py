"""What protoc does not do for the Python client: leave rules for servers out, and type the grpcio stubs."""

from __future__ import annotations

from collections.abc import Iterator

from google.api import annotations_pb2, field_behavior_pb2  # noqa: F401 (registers the options to keep)
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

RULES = "buf/validate/validate.proto"


def client_descriptors(
    serialized: bytes, package: str, client_package: str
) -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors with `package` moved to `client_package` and without buf.validate.

    Python derives a module's name from the name of its file, so the move makes the imports within the
    generated modules right. Without the rules the client needs no package that ships them.
    """
    files = descriptor_pb2.FileDescriptorSet.FromString(serialized)
    kept = [file for file in files.file if file.name != RULES]
    for file in kept:
        if not file.name.startswith(package):
            continue
        file.name = client_package + file.name.removeprefix(package)
        dependencies = [name for name in file.dependency if name != RULES]
        file.ClearField("dependency")
        file.dependency.extend(
            client_package + name.removeprefix(package) if name.startswith(package) else name
            for name in dependencies
        )
        for options in _options(file):
            options.DiscardUnknownFields()
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


def typed_stub(file: descriptor_pb2.FileDescriptorProto, files: descriptor_pb2.FileDescriptorSet) -> str:
    """Return the .pyi of what grpcio generates for `file`, whose streams are all server streams.

    Each stub has two types: as it is on a grpc.Channel, and (Async…) as it is on a grpc.aio.Channel.
    A servicer's answers are untyped, for it may be written with or without asyncio.
    """
    modules = _modules(files)
    methods = [method for service in file.service for method in service.method]
    used = sorted({modules[name] for method in methods for name in (method.input_type, method.output_type)})
    lines = ["from typing import Any", "", "import grpc", "import grpc.aio"]
    lines += [f"from {package} import {module}" for package, module in used]
    for service in file.service:
        for prefix, package in (("", "grpc"), ("Async", "grpc.aio")):
            lines += ["", f"class {prefix}{service.name}Stub:"]
            lines += [f"    def __init__(self, channel: {package}.Channel) -> None: ..."]
            lines += [_attribute(method, package, modules) for method in service.method]
        servicer = f"{service.name}Servicer"
        lines += ["", f"class {servicer}:"]
        lines += [_handler(method, modules) for method in service.method]
        lines += ["", f"def add_{servicer}_to_server("]
        lines += [f"    servicer: {servicer}, server: grpc.Server | grpc.aio.Server", ") -> None: ..."]
    return "\n".join(lines) + "\n"


def _attribute(
    method: descriptor_pb2.MethodDescriptorProto, package: str, modules: dict[str, tuple[str, str]]
) -> str:
    kind = "UnaryStream" if method.server_streaming else "UnaryUnary"
    request, response = (_reference(name, modules) for name in (method.input_type, method.output_type))
    return f"    {method.name}: {package}.{kind}MultiCallable[{request}, {response}]"


def _handler(method: descriptor_pb2.MethodDescriptorProto, modules: dict[str, tuple[str, str]]) -> str:
    request = _reference(method.input_type, modules)
    return f"    def {method.name}(self, request: {request}, context: Any) -> Any: ..."


def _reference(name: str, modules: dict[str, tuple[str, str]]) -> str:
    return f"{modules[name][1]}.{name.rpartition('.')[2]}"


def _modules(files: descriptor_pb2.FileDescriptorSet) -> dict[str, tuple[str, str]]:
    """Return package and module of each top-level message by its full name with a leading dot."""
    found = {}
    for file in files.file:
        package, _, module = file.name.removesuffix(".proto").replace("/", ".").rpartition(".")
        for message in file.message_type:
            found[f".{file.package}.{message.name}"] = (package, f"{module}_pb2")
    return found
