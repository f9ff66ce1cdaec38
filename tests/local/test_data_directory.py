from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from gateway.local.data_directory import (
    DirectoryLock,
    private_directory,
    read_strings,
    write_private,
    write_strings,
)
from gateway.local.errors import DataDirectoryBusy, DataDirectoryError
from gateway.local.ports import Ports
from gateway.local.secrets import Secrets

if TYPE_CHECKING:
    from pathlib import Path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_is_made_private(tmp_path: Path) -> None:
    assert mode(private_directory(tmp_path / "a" / "b")) == 0o700


def test_an_empty_directory_becomes_private_and_a_used_one_keeps_its_mode(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(0o755)
    private_directory(directory)
    assert mode(directory) == 0o700
    (directory / "something").touch()
    directory.chmod(0o755)
    private_directory(directory)
    assert mode(directory) == 0o755


def test_a_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    tmp_path.chmod(0o1777)
    with pytest.raises(DataDirectoryError, match="can be written to by other users"):
        private_directory(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(DataDirectoryError, match="cannot be used as a data directory"):
        private_directory(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root")
def test_somebody_elses_directory_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(DataDirectoryError, match="belongs to user 65534"):
        private_directory(tmp_path)


def test_the_lock_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path) as lock:
        lock.acquire()
        with pytest.raises(DataDirectoryBusy, match=f"in use by process {os.getpid()}:") as refusal:
            DirectoryLock(tmp_path).acquire()
        assert refusal.value.pid == os.getpid()
        with DirectoryLock(tmp_path, "another.lock"):
            pass
    with DirectoryLock(tmp_path):
        pass


def test_private_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert mode(path) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": 1}', b'{"a":', b"\xff"])
def test_a_damaged_file_is_said_to_be(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secrets.json"
    path.write_bytes(content)
    with pytest.raises(DataDirectoryError, match=r"secrets.json is damaged"):
        read_strings(path)
    with pytest.raises(DataDirectoryError):
        Secrets(tmp_path).get("x")
    assert path.read_bytes() == content


def test_secrets_are_made_once(tmp_path: Path) -> None:
    one = Secrets(tmp_path).get("one")
    assert len(one) == 64
    assert Secrets(tmp_path).get("two") != one
    assert Secrets(tmp_path).get("one") == one
    Secrets(tmp_path).set("one", "given")
    assert Secrets(tmp_path).get("one") == "given"
    assert mode(tmp_path / "secrets.json") == 0o600


def test_ports_are_remembered_while_they_are_free(tmp_path: Path) -> None:
    ports = Ports(tmp_path)
    port = ports.choose("part")
    ports.remember("part", port)
    assert Ports(tmp_path).choose("part") == port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        assert ports.choose("part") != port


@pytest.mark.parametrize("remembered", ["", "0", "70000", "-1", "x", "99999999999999999999"])
def test_a_remembered_port_that_is_none_is_passed_over(tmp_path: Path, remembered: str) -> None:
    write_strings(tmp_path / "ports.json", {"part": remembered})
    assert 0 < Ports(tmp_path).choose("part") < 65536
