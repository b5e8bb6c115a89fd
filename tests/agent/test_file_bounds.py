"""Files that the agent reads whole: the day one of them is larger than any of its kind."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mailboat_agent.assembly import TRUST_ROOT_BYTES_MAX, read_trust_root
from mailboat_agent.carrier import spool as import_spool
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.identity.enrol import KIT_BYTES_MAX, read_kit
from mailboat_schemas.errors import ConfigurationInvalid


def test_a_trust_root_as_large_as_may_be_is_read_and_a_larger_one_is_told(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(trust_root=tmp_path / "root.json")
    config.trust_root.write_bytes(b"x" * TRUST_ROOT_BYTES_MAX)

    assert len(read_trust_root(config)) == TRUST_ROOT_BYTES_MAX

    config.trust_root.write_bytes(b"x" * (TRUST_ROOT_BYTES_MAX + 1))
    with pytest.raises(ConfigurationInvalid, match=f"over {TRUST_ROOT_BYTES_MAX} bytes"):
        read_trust_root(config)


def test_a_kit_without_an_end_is_no_kit(tmp_path: Path) -> None:
    kit = tmp_path / "kit.json"
    with kit.open("wb") as file:
        file.truncate(64 * KIT_BYTES_MAX)  # of zeros; all of it would be memory

    with pytest.raises(ConfigurationInvalid):
        read_kit(kit)


def test_the_origins_of_the_newest_imports_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_spool, "ORIGINS_MAX", 3)
    spool = ImportSpool(tmp_path)
    spool.directory.mkdir(parents=True)
    files = {f"{number:064x}": 1 for number in range(4)}

    for digest, length in files.items():
        spool._remember(digest, length)

    assert spool.imported_bytes(files) == 3
    assert spool.imported_bytes({f"{0:064x}": 1}) == 0


def test_as_many_origins_as_may_be_are_read_again(tmp_path: Path) -> None:
    """The bound of the file has room for the bound of what stands in it."""
    spool = ImportSpool(tmp_path)
    spool.directory.mkdir(parents=True)
    files = {f"{number:064x}": 1 << 40 for number in range(import_spool.ORIGINS_MAX)}

    spool._write_origins(files)

    assert spool.imported_bytes(files) == import_spool.ORIGINS_MAX << 40
