from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.live.n8n_install import DIRECTORY_VARIABLE, InstallError, default_directory, install

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live.n8n_install import Installation


def test_what_is_missing_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InstallError, match=r"needs npm, gcc, g\+\+, make on the PATH"):
        install(tmp_path / "n8n")
    assert not (tmp_path / "n8n").exists()


def test_the_directory_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "elsewhere"))
    assert default_directory() == tmp_path / "elsewhere"


@pytest.mark.timeout(120, func_only=True)
def test_a_finished_installation_is_left_as_it_is(n8n_installation: Installation) -> None:
    lines: list[str] = []
    assert install(n8n_installation.root, lines.append) == n8n_installation
    assert lines == []
