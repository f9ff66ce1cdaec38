"""Generates all code from the protos without network, or tells with ``--check`` what is not as generated.

Written files, each directory owned whole, so that files of protos that are gone go too:

========================================  =======================================================
gateway/gen                               protobuf-py messages, and descriptors.binpb: all files
                                          with imports and comments, as protoc writes it
gateway/transcoding/gen                   protobuf-py messages of google.api, google.rpc, buf.validate
clients/python/src/n8n_gateway_client/v1  google.protobuf messages, grpcio stubs and their types
clients/typescript/src/gen                protobuf-es messages and services
clients/go/v1                             google.golang.org/protobuf messages and connect-go's services
========================================  =======================================================

The last two need node and Go, and once a network to fetch their plugins: where one is missing, its client is
left as it is, which is said.

buf would fetch google.api and buf.validate from its registry. Here google.api comes from the package
googleapis-common-protos, buf.validate from protovalidate's own descriptors, and buf works on the image that
protoc has built of them, by the same buf.yaml and buf.gen.yaml that it reads with network.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import protovalidate._gen.buf.validate.validate_pb as validate
from client_plugins import GO, TYPESCRIPT, bare_descriptors, generate_go, generate_typescript
from client_stubs import client_descriptors, typed_stub
from google.api import http_pb2
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2
from protobuf import DescFile
from protobuf.wkt.google.protobuf import descriptor_pb
from toolchains import MissingToolchainError

ROOT = Path(__file__).resolve().parent.parent
SITE_PACKAGES = Path(http_pb2.__file__).parent.parent.parent
BIN = Path(sys.executable).parent

GATEWAY = Path("gateway/gen")
TRANSCODING = Path("gateway/transcoding/gen")
CLIENT = Path("clients/python/src/n8n_gateway_client/v1")
CLIENT_PACKAGE = "n8n_gateway_client/v1"
DESCRIPTORS = GATEWAY / "descriptors.binpb"

PACKAGE = "n8ngateway/v1"
TRANSCODING_PROTOS = (
    "buf/validate/validate.proto",
    "google/api/annotations.proto",
    "google/api/field_behavior.proto",
    "google/api/http.proto",
    "google/api/httpbody.proto",
    "google/rpc/code.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
)
# ImageFileExtension{is_import: true} in field 8042: how a buf image tells imports from its own files.
IMPORT_MARK = b"\xd2\xf6\x03\x02\x08\x01"


class GenerationError(Exception):
    """A tool refused; its own output has been shown."""


def protoc(descriptors: Path, *arguments: str) -> None:
    """Run protoc on files of a FileDescriptorSet or below a `-I`, with plugins from this environment."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={descriptors}", *arguments]
    if subprocess.run(command, env=environment(), check=False).returncode:
        raise GenerationError("protoc: " + " ".join(arguments[:1]))


def sources(root: Path = ROOT) -> tuple[str, str]:
    """Return where protoc finds the protos of the package, and those of google.api and google.rpc."""
    return f"-I{root / 'proto'}", f"-I{SITE_PACKAGES}"


def environment() -> dict[str, str]:
    """Return the variables of this process with the plugins of its environment found first."""
    return {**os.environ, "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", "")])}


def names(root: Path = ROOT) -> list[str]:
    """Return the protos of the package as protoc names them."""
    return sorted(f"{PACKAGE}/{path.name}" for path in (root / "proto" / PACKAGE).glob("*.proto"))


def write_dependencies(path: Path) -> Path:
    """Write buf/validate/validate.proto with all that it imports as a FileDescriptorSet."""
    files: dict[str, descriptor_pb.FileDescriptorProto] = {}

    def add(file: DescFile) -> None:
        if file.name not in files:
            for dependency in file.dependencies:
                add(dependency)
            files[file.name] = file.proto

    add(validate.desc())
    path.write_bytes(descriptor_pb.FileDescriptorSet(file=list(files.values())).to_binary())
    return path


def write_descriptors(dependencies: Path, path: Path, root: Path = ROOT) -> Path:
    """Write the protos of the package with imports and comments as a FileDescriptorSet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = (f"--descriptor_set_out={path}", "--include_imports", "--include_source_info")
    protoc(dependencies, *arguments, *sources(root), *names(root))
    return path


def generate(out: Path) -> list[Path]:
    """Write every generated file below `out`, at its path in the repository, and return the directories.

    A client whose plugins cannot be had is left out, which is said on standard error.
    """
    dependencies = write_dependencies(out / "dependencies.binpb")
    for directory in (GATEWAY, TRANSCODING, CLIENT, TYPESCRIPT, GO):
        (out / directory).mkdir(parents=True)
    descriptors = write_descriptors(dependencies, out / DESCRIPTORS)
    image = write_image(descriptors, out / "image.binpb")
    if not buf("generate", str(image), "--output", str(out)):
        raise GenerationError("buf generate")
    protoc(dependencies, f"--py_out={out / TRANSCODING}", *sources(), *TRANSCODING_PROTOS)
    generate_python_client(descriptors, out)
    return [GATEWAY, TRANSCODING, CLIENT, *generate_plugin_clients(descriptors, out)]


def generate_python_client(descriptors: Path, out: Path) -> None:
    """Write the Python client's messages and stubs, typed, from descriptors without rules for servers."""
    files = client_descriptors(descriptors.read_bytes(), PACKAGE, CLIENT_PACKAGE)
    stripped = out / "client.binpb"
    stripped.write_bytes(files.SerializeToString(deterministic=True))
    source = out / CLIENT.parent.parent
    own = [file for file in files.file if file.name.startswith(CLIENT_PACKAGE)]
    outputs = (f"--{kind}_out={source}" for kind in ("python", "pyi", "grpc_python"))
    protoc(stripped, *outputs, *(file.name for file in own))
    for file in own:
        stub = source / file.name.replace(".proto", "_pb2_grpc.py")
        if file.service:
            stub.with_suffix(".pyi").write_text(typed_stub(file, files))
        else:
            stub.unlink()
    (out / CLIENT / "__init__.py").write_text('"""Messages and stubs generated from n8ngateway.v1."""\n')


def generate_plugin_clients(descriptors: Path, out: Path) -> list[Path]:
    """Write the clients whose plugins can be had, say which cannot, and return the directories written."""
    errors = descriptor_pb2.FileDescriptorProto()
    error_details_pb2.DESCRIPTOR.CopyToProto(errors)
    bare = out / "bare.binpb"
    bare.write_bytes(bare_descriptors(descriptors.read_bytes(), errors, PACKAGE).SerializeToString())
    written = []
    for directory, write in ((TYPESCRIPT, generate_typescript), (GO, generate_go)):
        try:
            write(ROOT, out, partial(protoc, bare), names())
        except MissingToolchainError as missing:
            print(f"{directory} skipped: {missing}", file=sys.stderr)
        else:
            written.append(directory)
    return written


def differences(out: Path, directories: list[Path]) -> list[str]:
    """Return one line for each file of the repository that is not as in `out`."""
    found = []
    for directory in directories:
        wanted, present = _files(out / directory), _files(ROOT / directory)
        for name in sorted(wanted | present):
            if name not in present:
                found.append(f"missing: {directory / name}")
            elif name not in wanted:
                found.append(f"left over: {directory / name}")
            elif (out / directory / name).read_bytes() != (ROOT / directory / name).read_bytes():
                found.append(f"differs: {directory / name}")
    return found


def _files(directory: Path) -> set[Path]:
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {path for path in found if "__pycache__" not in path.parts}


def install(out: Path, directories: list[Path]) -> None:
    """Put the generated directories in the place of those in the repository."""
    for directory in directories:
        shutil.rmtree(ROOT / directory, ignore_errors=True)
        shutil.copytree(out / directory, ROOT / directory)


def buf(*arguments: str) -> bool:
    """Run buf and tell whether it was content."""
    command = [str(BIN / "buf"), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode == 0


def write_image(descriptors: Path, path: Path) -> Path:
    """Write `descriptors` as a buf image, in which imports are marked and so not linted."""
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    for file in files.file:
        if not file.name.startswith(PACKAGE):
            file.MergeFromString(IMPORT_MARK)
    path.write_bytes(files.SerializeToString())
    return path


def image_config(out: Path) -> str:
    """Return the path of buf.yaml as it reads for an image, whose files are named from proto/ on."""
    config = (ROOT / "buf.yaml").read_text()
    path = out / "buf.yaml"
    path.write_text(config.replace("modules:\n  - path: proto\n", "").replace("- proto/", "- "))
    return str(path)


def base_protos(out: Path, base: str) -> Path | None:
    """Return a directory with proto/ as of the commit `base`, or None when it has none."""
    if shutil.which("git") is None:
        return None
    command = ["git", "archive", "--format=tar", base, f"proto/{PACKAGE}"]
    archive = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    if archive.returncode:
        return None
    directory = out / "base"
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(directory, filter="data")
    return directory


def check_protos(out: Path, base: str) -> bool:
    """Lint, check the format and compare with the commit `base`; each finding is shown."""
    config = image_config(out)
    image = str(out / "image.binpb")
    good = buf("lint", image, "--config", config, "--error-format", "text")
    for name in names():
        good &= buf("format", "--diff", "--exit-code", f"proto/{name}")
    root = base_protos(out, base)
    if root is None:
        print(f"breaking changes not looked for: no {PACKAGE} in {base}", file=sys.stderr)
        return good
    before = write_descriptors(out / "dependencies.binpb", out / "before.binpb", root)
    against = write_image(before, out / "against.binpb")
    return buf("breaking", image, "--against", str(against), "--config", config) and good


def main() -> int:
    """Generate, or check; the status is 0 when all is as it should be."""
    parser = argparse.ArgumentParser(description="Generate the code from proto/.")
    parser.add_argument("--check", action="store_true", help="write nothing, tell what is wrong")
    parser.add_argument("--base", default="HEAD", help="commit that must not be broken (default: HEAD)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory)
        try:
            directories = generate(out)
            if not options.check:
                install(out, directories)
                return 0
            found = differences(out, directories)
            good = check_protos(out, options.base)
        except GenerationError as error:
            print(error, file=sys.stderr)
            return 1
    for line in found:
        print(f"{line} (run make generate)", file=sys.stderr)
    return 0 if good and not found else 1


if __name__ == "__main__":
    sys.exit(main())
