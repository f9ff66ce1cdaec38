"""Protos of the tests, compiled once, and a way to call a transcoder without a socket."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from grpc_tools import protoc

PROTOS = Path(__file__).parent / "protos"


def _packages(name: str) -> list[str]:
    """The folders that contain an installed package, as import paths for its .proto files."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    depth = name.count(".") + 1
    return [str(Path(folder).parents[depth - 1]) for folder in spec.submodule_search_locations]


@pytest.fixture(scope="session")
def compile_proto(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], bytes]:
    """Compiles one .proto file into a serialized FileDescriptorSet with its imports."""
    bundled = Path(_packages("grpc_tools")[0]) / "grpc_tools" / "_proto"

    def compile_file(proto: Path) -> bytes:
        output = tmp_path_factory.mktemp("descriptors") / "set.binpb"
        includes = [f"-I{path}" for path in (proto.parent, bundled, *_packages("google.api"))]
        arguments = ["protoc", *includes, "--include_imports", "--include_source_info"]
        assert protoc.main([*arguments, f"--descriptor_set_out={output}", str(proto)]) == 0
        return output.read_bytes()

    return compile_file


@pytest.fixture(scope="session")
def vectors_set(compile_proto: Callable[[Path], bytes]) -> bytes:
    return compile_proto(PROTOS / "vectors.proto")


@pytest.fixture(scope="session")
def library_set(compile_proto: Callable[[Path], bytes]) -> bytes:
    return compile_proto(PROTOS / "library.proto")
