"""Compiles bench.proto for every peer: protobuf-py, connectrpc, google.protobuf, grpcio, descriptors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import protovalidate._gen.buf.validate.validate_pb as validate
from google.api import http_pb2
from protobuf import DescFile
from protobuf.wkt.google.protobuf.descriptor_pb import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
PROTO = "bench/v1/bench.proto"
_PROTOS = Path(__file__).parent / "proto"
_COMMON_PROTOS = Path(http_pb2.__file__).parents[2]
_IMPORTS = "map_imports=google/**:gateway.transcoding.gen,map_imports=buf/**:gateway.transcoding.gen"


def generate() -> Path:
    """Compile into .cache and return the directory, which is to be on the path of every process."""
    source = (_PROTOS / PROTO).read_bytes() + Path(__file__).read_bytes()
    out = ROOT / ".cache" / "bench" / hashlib.sha256(source).hexdigest()[:12]
    done = out / ".done"
    if done.exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    dependencies = out / "dependencies.binpb"
    dependencies.write_bytes(_descriptors(validate.desc()))
    _protoc(out, f"--py_out={out}", f"--py_opt={_IMPORTS}", f"--connectrpc_out={out}", PROTO)
    _protoc(out, f"--python_out={out}", PROTO, "buf/validate/validate.proto")
    _protoc(out, f"--grpc_python_out={out}", PROTO)
    _protoc(out, f"--descriptor_set_out={descriptors(out)}", "--include_imports", PROTO)
    done.touch()
    return out


def descriptors(generated: Path) -> Path:
    """The FileDescriptorSet of the proto with its imports."""
    return generated / "descriptors.binpb"


def _protoc(out: Path, *arguments: str) -> None:
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={out / 'dependencies.binpb'}"),
        *(f"-I{_PROTOS}", f"-I{_COMMON_PROTOS}", *arguments),
    ]
    plugins = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(command, env={**os.environ, "PATH": plugins}, check=True)


def _descriptors(file: DescFile) -> bytes:
    files: dict[str, DescFile] = {}

    def add(file: DescFile) -> None:
        for dependency in file.dependencies:
            add(dependency)
        files.setdefault(file.name, file)

    add(file)
    return FileDescriptorSet(file=[file.proto for file in files.values()]).to_binary()
