"""The databases that the controller's store is tested on, and trials on a busy machine."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from enrolled_fleet import migrated_database
from mailboat_controller.store.engine import Store
from postgres_server import PostgresServer, postgres_server, programs

TEMPLATE = "migrated"
# PostgreSQL takes a second to start: with all tests. SQLite with the quick ones too.
BOTH_DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server that holds a migrated database to make others from."""
    if programs() is None or shutil.which("psql") is None:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg")
    with postgres_server() as server:
        server.sql("postgres", f"CREATE DATABASE {TEMPLATE}")
        store = Store(server.url(TEMPLATE))
        store.migrate()
        store.close()
        yield server


@pytest.fixture(params=BOTH_DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database, migrated."""
    make: dict[str, Callable[[], str]] = {
        "sqlite": lambda: _sqlite(tmp_path),
        "postgresql": lambda: request.getfixturevalue("postgres").database(TEMPLATE),
    }
    return make[request.param]()


def _sqlite(directory: Path) -> str:
    path = directory / "mailboat.db"
    path.write_bytes(migrated_database())
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def patient_promises() -> Iterator[None]:
    """Of what was measured in one trial follow limits for the next, in which the machine may be
    busier. How they follow is tested in test_model_figures.py."""
    from mailboat_controller.bundles import proposal

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposal, "LATENCY_MS_MIN", 10_000.0)
        patch.setattr(proposal, "COLD_START_MS_MIN", proposal.MS_MAX)
        patch.setattr(proposal, "DEADLINE_SECONDS_MIN", proposal.DEADLINE_SECONDS_MAX)
        yield
