"""The tables, the two engines that hold them, and the revision that they must have.

SQLite (WAL) is embedded and brings itself up to date; PostgreSQL is shared by replicas, so that one command does it
(`s2s db upgrade`) and every process refuses to run on another revision. Whoever finds an empty database sets it up.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy import inspect as inspect_tables
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolUsedUp
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.functions import FunctionElement

from s2s.config import Settings
from s2s.errors import ArtifactError, UpstreamError

Store, Found = TypeVar("Store"), TypeVar("Found")
FIRST_REVISION = "0001"
SETUP_LOCK = 0x533253  # of PostgreSQL's advisory locks: one process at a time changes the tables

metadata = MetaData()
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("owner", String(80), nullable=False, server_default=""),
    Column("state", String(10), nullable=False),
    Column("attempt", Integer, nullable=False, default=0),  # the fencing token
    Column("failures", Integer, nullable=False, default=0),  # attempts that count: a busy model server does not
    Column("seq", Integer, nullable=False, default=0),  # of the last event
    Column("filename", String(200), nullable=False),
    Column("idempotency_key", String(100), unique=True),  # a hash of owner and key
    Column("wishes", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("lease_until", Float),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("progress", JSON),
    Column("problem", JSON),
    Column("report", JSON),
    Column("container", String(8)),  # of the result: mp4 or webm
    Column("result_bytes", BigInteger),
    Column("result_sha256", String(64)),
    Column("stored_bytes", BigInteger, nullable=False, server_default="0"),  # of all blobs of the job
    Column("share_nonce", String(32)),
    Column("share_hash", String(64)),  # of the token in the link
    Column("webhook_url", String(1000)),  # is told how the job ended
    Index("jobs_by_state", "state", "created_at"),
    Index("jobs_by_owner", "owner", "created_at"),
    Index("jobs_by_share", "share_hash", unique=True),
)
job_events = Table(
    "job_events",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("event", String(10), nullable=False),
    Column("data", JSON),
)
webhooks = Table(  # the outbox: written with the outcome of a job, in the same transaction
    "webhooks",
    metadata,
    Column("id", String(36), primary_key=True),  # the receiver knows it: the same for every try
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, unique=True),
    Column("state", String(10), nullable=False),
    Column("payload", Text, nullable=False),  # the very bytes that are signed
    Column("attempts", Integer, nullable=False, default=0),  # the fencing token
    Column("status", Integer),  # of the last answer
    Column("created_at", Float, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("lease_until", Float),
    Index("webhooks_by_state", "state", "not_before"),
)
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
)


class DatabaseNow(FunctionElement):
    """Seconds since 1970 by the database's clock."""

    type = Float()
    inherit_cache = True


@compiles(DatabaseNow)
def _now_postgres(element: DatabaseNow, compiler: Any, **kw: Any) -> str:
    return "cast(extract(epoch from clock_timestamp()) as double precision)"


@compiles(DatabaseNow, "sqlite")
def _now_sqlite(element: DatabaseNow, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


NOW = DatabaseNow()
AWAY = ("53", "57")  # classes of PostgreSQL's codes: no room, too many connections; starting up, shutting down
CONNECT_WITHIN_S, FREE_WITHIN_S, ANSWER_WITHIN_S = 5.0, 5.0, 10.0  # a server that says nothing is one that is away
CHANNEL, LISTEN_AGAIN_S = "s2s", 1.0
NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', :key)")


def whole(store: type[Store]) -> type[Store]:
    """Every coroutine of a store runs to its end even when its caller is canceled, who hears of it afterwards.

    A transaction that is dropped in the middle costs its connection, and leaves its caller not knowing what is true.
    """

    def run_whole(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @wraps(method)
        async def run(*args: Any, **kw: Any) -> Any:
            task = asyncio.ensure_future(method(*args, **kw))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                await asyncio.wait([task])
                raise

        return run

    for name, method in vars(store).copy().items():
        if inspect.iscoroutinefunction(method) and not name.startswith("_"):
            setattr(store, name, run_whole(method))
    return store


class DatabaseAway(UpstreamError):
    """It cannot be reached, or cannot answer now: restarted, locked, out of disk, mute."""

    default_code = "database_away"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolUsedUp, OSError, asyncpg.PostgresError) as exc:
        raise DatabaseAway("The database does not answer.", hint="Try again in a while.") from exc
    except DBAPIError as exc:
        if not exc.connection_invalidated and (getattr(exc.orig, "sqlstate", None) or "")[:2] not in AWAY:
            raise
        raise DatabaseAway("The connection to the database broke.", hint="Try again in a while.") from exc


class Database:
    """`read` looks something up, `write` changes something; both are given a plain function of a `Connection`.

    PostgreSQL is spoken to by asyncpg. SQLite is used in threads, one whole function at a time: to hop into a thread
    for every call of a driver costs ten times what the call does, and far more when the event loop is busy.
    """

    def __init__(self, url: str):
        self.embedded = url.startswith("sqlite")
        if self.embedded:
            self._file = create_engine(url, hide_parameters=True)  # errors are logged, what people sent is not
            event.listen(self._file, "connect", _sqlite_connect)
            event.listen(self._file, "begin", _sqlite_begin)
            self._readers = ThreadPoolExecutor(4, thread_name_prefix="s2s-read")
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="s2s-write")  # it has one writer anyway
        else:
            self._url = url
            self._server = create_async_engine(
                url,
                pool_pre_ping=True,
                pool_size=10,
                pool_timeout=FREE_WITHIN_S,
                hide_parameters=True,
                connect_args={"timeout": CONNECT_WITHIN_S, "command_timeout": ANSWER_WITHIN_S},
            )
            self._telling: set[asyncio.Future] = set()

    async def read(self, look: Callable[[Connection], Found]) -> Found:
        """What `look` finds. Each of its statements sees what is committed when it starts. Raises DatabaseAway."""
        if self.embedded:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._in_file, look, False)
        with _translated():
            return await self._ask_server(look)

    async def _ask_server(self, look: Callable[[Connection], Found]) -> Found:
        async with self._server.connect() as db:
            await db.execution_options(isolation_level="AUTOCOMMIT")  # spares BEGIN and ROLLBACK
            return await db.run_sync(look)

    async def write(self, change: Callable[[Connection], Found]) -> Found:
        """What `change` returns, once its transaction is committed; an exception rolls it back.

        Raises DatabaseAway; on a server the transaction may then have been committed all the same.
        """
        if self.embedded:
            return await asyncio.get_running_loop().run_in_executor(self._writer, self._in_file, change, True)
        with _translated():
            async with self._server.begin() as db:
                return await db.run_sync(change)

    def _in_file(self, act: Callable[[Connection], Found], writes: bool) -> Found:
        with _translated(), self._file.connect().execution_options(s2s_write=writes) as db, db.begin():
            return act(db)

    @classmethod
    def of(cls, config: Settings) -> Database:
        """The shared database of the settings, else the embedded one in the data directory."""
        if config.database_url:
            return cls(async_url(config.database_url))
        return cls.in_file(config.data_dir / "jobs.sqlite")

    @classmethod
    def in_file(cls, path: Path) -> Database:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(f"sqlite:///{path}")

    def notify(self, keys: tuple[str, ...]) -> None:
        """Tells other processes, soon, if they share a server. Who does not hear it finds out by polling."""
        if not self.embedded:
            task = asyncio.ensure_future(self._notify(keys))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _notify(self, keys: tuple[str, ...]) -> None:
        with suppress(DatabaseAway):
            await self.read(lambda db: [db.execute(NOTIFY, {"key": key}).close() for key in keys])

    async def listen(self, heard: Callable[[str | None], None]) -> None:
        """Calls `heard` with each key that any process tells, and with None where some may have been missed. Connects
        again as often as needed, until it is canceled."""
        while not self.embedded:
            with suppress(DatabaseAway), _translated():
                async with self._server.connect() as db:
                    connection, broken = (await db.get_raw_connection()).driver_connection, asyncio.Event()
                    connection.add_termination_listener(lambda _, broken=broken: broken.set())
                    await connection.add_listener(CHANNEL, lambda *told: heard(told[-1]))
                    heard(None)
                    try:
                        await broken.wait()
                    finally:
                        await db.invalidate()  # nobody else gets a connection that listens
            await asyncio.sleep(LISTEN_AGAIN_S)

    async def open(self) -> None:
        """Raises ArtifactError when the tables are of another version of this software."""
        await self._set_up(may_upgrade=self.embedded)

    async def upgrade(self) -> None:
        """`s2s db upgrade`."""
        await self._set_up(may_upgrade=True)

    async def _set_up(self, may_upgrade: bool) -> None:
        """On a connection that waits: a migration may take long, and others for whoever is at it."""

        def change(db: Connection) -> None:
            _bring_up_to_date(db, may_upgrade)

        if self.embedded:
            return await self.write(change)
        patient = create_async_engine(
            self._url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": CONNECT_WITHIN_S}
        )
        with _translated():
            async with patient.begin() as db:
                await db.run_sync(change)

    async def close(self) -> None:
        if not self.embedded:
            await self._server.dispose()
            return
        for threads in (self._readers, self._writer):
            await asyncio.to_thread(threads.shutdown)
        self._file.dispose()


def async_url(url: str) -> str:
    """A URL as people write it -> with the driver that we use. Raises ArtifactError."""
    scheme, separator, rest = url.partition("://")
    drivers = {"postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg", "sqlite": "sqlite"}
    known = drivers.get(scheme.split("+")[0])
    if not separator or known is None:
        raise ArtifactError("S2S_DATABASE_URL is not understood.", hint="Use postgresql://user:password@host/name.")
    return f"{known}://{rest}"


def _bring_up_to_date(db: Connection, may_upgrade: bool) -> None:
    if db.dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": SETUP_LOCK})
    config = Config()
    config.set_main_option("script_location", "api_service:migrations")
    config.attributes["connection"] = db
    scripts = ScriptDirectory.from_config(config)
    newest = scripts.get_current_head()
    revision = MigrationContext.configure(db).get_current_revision()
    if revision == newest:
        return
    if revision is not None and revision not in {script.revision for script in scripts.walk_revisions()}:
        raise ArtifactError(
            f"The database has revision {revision}; this version knows {newest}.", hint="Run the newer version of s2s."
        )
    tables = inspect_tables(db).get_table_names()
    if revision is None and "jobs" in tables:  # from before there were revisions
        command.stamp(config, FIRST_REVISION)
        revision = FIRST_REVISION
    if revision is not None and not may_upgrade:
        raise ArtifactError(
            f"The database has revision {revision}; this version needs {newest}.",
            hint="Make a backup, stop the other processes, run `s2s db upgrade`.",
        )
    command.upgrade(config, "head")


def _sqlite_connect(connection: Any, _: Any) -> None:
    """WAL: readers and the writer do not wait for each other."""
    connection.isolation_level = None  # the driver's own BEGIN comes too late
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    """A write takes its lock at BEGIN instead of failing at the first statement; a read needs no transaction."""
    if connection.get_execution_options().get("s2s_write"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
