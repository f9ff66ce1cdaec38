"""Protos into descriptors, with the compiler of grpcio-tools."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent / "protos"


def compile_proto(proto: Path) -> bytes:
    """A serialized FileDescriptorSet of one .proto file and its imports."""
    folders = [proto.parent, *_parents("grpc_tools", "_proto"), *_parents("google.api", "../..")]
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "set.binpb"
        arguments = [
            "protoc",
            *(f"-I{folder}" for folder in folders),
            "--include_imports",
            "--include_source_info",
        ]
        if protoc.main([*arguments, f"--descriptor_set_out={output}", str(proto)]) != 0:
            message = f"{proto} does not compile"
            raise ValueError(message)
        return output.read_bytes()


def _parents(package: str, relative: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        message = f"the package {package} is not installed"
        raise ValueError(message)
    return [(Path(folder) / relative).resolve() for folder in spec.submodule_search_locations]
