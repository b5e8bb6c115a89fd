"""A PostgreSQL cluster of our own: made in a temporary directory, heard on a socket there alone."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_SECONDS_MAX = 60
USER = "mailboat"


def programs() -> Path | None:
    """Where `initdb` and `pg_ctl` are; Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    named = shutil.which("initdb")
    if found:
        return found[-1].parent
    return None if named is None else Path(named).resolve().parent


@dataclass
class PostgresServer:
    """Everything it writes is below ``directory``; it refuses to run as root, so it does not."""

    directory: Path
    programs: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        data = self.directory / "data"
        if not data.exists():
            self._run("initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8")
            (data / "postgresql.auto.conf").write_text(
                "listen_addresses = ''\n"
                f"unix_socket_directories = '{self.directory}'\n"
                "max_connections = 200\n"
                "shared_buffers = 16MB\n"
                "fsync = off\n"  # the machine survives these tests; processes do not
            )
        log = self.directory / "log"
        self._run("pg_ctl", "-D", data, "-l", log, "-w", "-t", START_SECONDS_MAX, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", self.directory / "data", "-w", "-m", mode, "stop")

    def database(self, template: str = "template1") -> str:
        """The URL of a new database."""
        name = f"test{next(self._numbers)}"
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://{USER}@/{name}?host={self.directory}"

    def sql(self, name: str, statement: str) -> str:
        """Run one statement; returns what psql prints, unaligned."""
        psql = self.programs / "psql"
        command = [psql, "-X", "-q", "-A", "-t", "-h", self.directory, "-U", USER, "-d", name]
        done = subprocess.run(
            [*map(str, command), "-c", statement], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        # Not through a pipe: the server inherits it, and nobody would see its end.
        with (self.directory / "started.log").open("ab") as output:
            subprocess.run(
                command,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                user=_other_user(),
                cwd=self.directory,
                timeout=2 * START_SECONDS_MAX,
            )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """
    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    found = programs()
    if found is None:
        raise FileNotFoundError("no PostgreSQL here (Debian: apt-get install postgresql)")
    # Not below the test's own directory: the path of a socket has 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="mb-pg-"))
    user = _other_user()
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(directory, account.pw_uid, account.pw_gid)
    directory.chmod(0o755)
    server = PostgresServer(directory, found)
    try:
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _other_user() -> str | None:
    """Root may not run a server; somebody without any rights may."""
    if os.geteuid() != 0:
        return None
    known = {account.pw_name for account in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
