"""A private PostgreSQL server for tests: made in a temporary directory, on a Unix socket only, gone afterwards.

`postgres_url` is a fresh, empty database; `postgres_schemas` hands out schemas whose ledger tables are made once and
emptied between tests, which costs a tenth of that. The server writes nothing durably. Where PostgreSQL is not installed
the tests that ask for it are skipped, and say so.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "50",
    "autovacuum": "off",
    "jit": "off",
    "log_min_messages": "fatal",
    "timezone": "Asia/Kolkata",  # days are UTC's, whatever the server's
}
_AS_USER = (
    "import os, sys; os.setgroups([]); os.setgid({user.pw_gid}); os.setuid({user.pw_uid});"
    " os.execv(sys.argv[1], sys.argv[1:])"
)
"""Not `subprocess`'s own argument, for which it would fork this process, threads of gRPC and all."""
BINARIES = ("initdb", "pg_ctl", "postgres")


def binaries() -> Path | None:
    """Return the directory of the newest server's programs, None when there is none."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0])
    )
    on_path = shutil.which("pg_ctl")
    for directory in [*reversed(debian), *([Path(on_path).resolve().parent] if on_path else [])]:
        if all((directory / name).exists() for name in BINARIES):
            return directory
    return None


class PostgresServer:
    """A running server; `user` is who it runs as, for it refuses to run as root."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self._programs = programs
        self._user = _unprivileged() if os.geteuid() == 0 else None
        self._names = count(1)
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)

    def start(self) -> None:
        """Make the cluster, once, and start it."""
        data = self.directory / "data"
        if not data.exists():
            self._run(
                "initdb", "-D", data, "-U", "router", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"
            )
        options = " ".join(f"-c {name}='{value}'" for name, value in SETTINGS.items())
        log = self.directory / "log"
        self._run(
            "pg_ctl", "-D", data, "-w", "-t", "60", "-l", log, "-o", f"{options} -k {self.directory}", "start"
        )

    def stop(self) -> None:
        """Stop at once, as a power cut would; connections break."""
        self._run("pg_ctl", "-D", self.directory / "data", "-w", "-m", "immediate", "stop")

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database."""
        return f"postgresql://router@/{database}?host={self.directory}"

    def run(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database; yield its URL."""
        name = f"test_{next(self._names)}"
        # Copying files is faster than logging them page by page, which is what 15 and later do if not asked.
        fast = self._version() >= 150_000
        self.run(f"CREATE DATABASE {name}{' STRATEGY file_copy' if fast else ''}")
        try:
            yield self.url(name)
        finally:
            self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _version(self) -> int:
        return int(str(self.run("SHOW server_version_num")[0][0]))

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        if self._user is not None:
            command = [sys.executable, "-IS", "-c", _AS_USER.format(user=self._user), *command]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if program == "initdb" else subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        if done.returncode:
            log = self.directory / "log"
            said = done.stdout or (log.read_bytes() if log.exists() else b"")
            raise RuntimeError(f"{program} failed: {said.decode(errors='replace')[-800:]}")


class PostgresSchemas:
    """Schemas of one database with empty ledger tables, made when there are not enough and used again."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._free: list[str] = []
        self._names = count(1)

    def take(self) -> str:
        """Return the URL of a schema nobody uses."""
        return self._free.pop() if self._free else self._made()

    def give_back(self, url: str) -> None:
        """Empty a schema's tables for the next user."""
        with psycopg.connect(url, autocommit=True) as connection:
            schema = connection.execute("SELECT current_schema()").fetchone()[0]
            tables = connection.execute(
                "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables"
                " WHERE schemaname = %s AND tablename <> 'schema_version'",
                (schema,),
            ).fetchone()[0]
            if tables:
                connection.execute(f"TRUNCATE {tables} RESTART IDENTITY")
        self._free.append(url)

    def _made(self) -> str:
        name = f"ledger_{next(self._names)}"
        self._server.run(f"CREATE SCHEMA {name}")
        return f"{self._server.url()}&options=-csearch_path%3D{name}"


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server for the whole session."""
    programs = binaries()
    if programs is None:
        pytest.skip(
            f"PostgreSQL's {', '.join(BINARIES)} are neither in /usr/lib/postgresql/*/bin nor on PATH:"
            " install the package postgresql"
        )
    # Not pytest's directory: its path may be too long for a socket, and is closed to the user the server runs as.
    directory = Path(tempfile.mkdtemp(prefix="router-pg-"))
    try:
        server = PostgresServer(directory, programs)
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh, empty database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_schemas(postgres_server: PostgresServer) -> PostgresSchemas:
    """Schemas with empty ledger tables."""
    return PostgresSchemas(postgres_server)
