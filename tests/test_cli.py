"""The command line `spark-proxy`, against a real dispatcher."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.version import VERSION
from tests.dispatchers import PASSWORD, TOKEN, Dispatcher, client, configure, pushed
from tests.installations import COMMAND, Ended, Installation, installation
from tests.services import HOST, free_port, redis_server, service
from tests.stubs import KEY, application_hello, worker_hello

# What issue 2 promises to whoever reads the JSON.
DISPATCHER_KEYS = {"id", "url", "pid", "workers"}
WORKER_KEYS = {
    *("id", "host", "pid", "dispatcher", "state", "slots", "slots_busy"),
    *("tasks_done", "tasks_failed", "tasks_moved", "apps"),
}
APP_KEYS = {"id", "name", "user", "state", "running", "queued", "done"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dispatcher]:
    """A dispatcher with one worker and one application, which nothing but the test speaks for."""
    folder = tmp_path_factory.mktemp("pool")
    with redis_server(folder, PASSWORD) as port:
        # Longer than the tests take: the worker of this pool sends no heartbeats.
        configure(folder, port, more="heartbeat=300")
        env = {"EXTERNAL_SPARK_CONF_DIR": str(folder)}
        with (
            service("dispatcher", "--port", "0", env=env, folder=folder, name="it") as process,
            client(process.url) as shown,
        ):
            started = Dispatcher(process, port, shown)
            worker = started.attach(worker_hello("w1"))
            with pushed(shown, "/workers/w1/stream", worker.stream):
                started.open(application_hello())
                yield started


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Installation]:
    with installation(tmp_path) as made:
        yield made


def configured_for(pool: Dispatcher, home: Installation, more: str = "") -> Installation:
    configure(home.conf, pool.redis_port, more=more)
    return home


def command(home: Installation, *arguments: str, **env: str) -> Ended:
    return home.run([COMMAND, *arguments], **env)


def test_version_is_that_of_the_package(home: Installation) -> None:
    assert command(home, "version").succeeded().out == f"{VERSION}\n"


def test_help_lists_the_commands(home: Installation) -> None:
    said = command(home, "--help", COLUMNS="80").succeeded().out
    services = ("dispatcher", "worker", "redis")
    for name in (*services, "status", "drain", "install", "uninstall", "version"):
        assert f" {name} " in said


def test_help_of_a_service_is_that_of_its_module(home: Installation) -> None:
    said = command(home, "worker", "--help", COLUMNS="80").succeeded().out
    assert "python -m worker" in said
    assert "--slots" in said


def test_status_as_json_is_one_object_with_the_promised_keys(
    pool: Dispatcher, home: Installation
) -> None:
    ended = command(configured_for(pool, home), "status", "--json").succeeded()
    assert ended.err == ""
    status = json.loads(ended.out)
    assert set(status) == {"dispatchers", "workers", "apps"}
    (known,), (worker,), (app,) = status["dispatchers"], status["workers"], status["apps"]
    assert set(known) >= DISPATCHER_KEYS
    assert set(worker) >= WORKER_KEYS
    assert set(app) >= APP_KEYS
    assert (known["id"], known["url"], known["workers"]) == (pool.id, pool.url, 1)
    assert known["pid"] == pool.process.pid
    assert {key: worker[key] for key in ("id", "dispatcher", "state", "slots", "tasks_done")} == {
        "id": "w1", "dispatcher": pool.id, "state": "ATTACHED", "slots": 2, "tasks_done": 0,
    }
    assert (app["key"], app["state"], app["running"], app["queued"]) == (KEY, "WAITING", 0, 0)


def test_status_as_a_table_names_every_part_of_the_pool(
    pool: Dispatcher, home: Installation
) -> None:
    said = command(configured_for(pool, home), "status", COLUMNS="80").succeeded().out
    for part in ("Dispatchers", pool.url, "Workers", "w1", "0/2", "Applications", "app-a1"):
        assert part in said


def test_status_of_a_pool_without_dispatchers_is_empty(tmp_path: Path, home: Installation) -> None:
    with redis_server(tmp_path, PASSWORD) as port:
        configure(home.conf, port)
        ended = command(home, "status", "--json").succeeded()
    assert json.loads(ended.out) == {"dispatchers": [], "workers": [], "apps": []}


def test_status_fails_with_the_reason_when_no_dispatcher_answers(
    pool: Dispatcher, home: Installation
) -> None:
    configured_for(pool, home)
    ended = command(home, "status", "--json", EXTERNAL_SPARK_POOL_TOKEN="wrong")
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith(f"{pool.url}/status refused (401): ")
    assert TOKEN not in line


def test_draining_a_worker_that_is_not_there_says_which_ones_are(
    pool: Dispatcher, home: Installation
) -> None:
    ended = command(configured_for(pool, home), "drain", "NO-SUCH")
    assert (ended.code, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert "no worker NO-SUCH is attached; those there: w1" in line


def test_unreachable_redis_is_one_sentence_and_status_2(home: Installation) -> None:
    port = free_port()
    configure(home.conf, port)
    sentence = command(home, "status").sentence
    assert sentence.startswith(f"Redis at {HOST}:{port} is not reachable: ")
    assert "sbin/start-all.sh" in sentence
    assert PASSWORD not in sentence


def test_wrong_redis_password_is_one_sentence_and_status_2(
    pool: Dispatcher, home: Installation
) -> None:
    configure(home.conf, pool.redis_port, "a-wrong-one")
    sentence = command(home, "status").sentence
    assert sentence.startswith(f"Redis at {HOST}:{pool.redis_port} refused the password. ")
    assert "a-wrong-one" not in sentence


def test_wrong_key_is_one_sentence_and_status_2(pool: Dispatcher, home: Installation) -> None:
    configured_for(pool, home, more="hearbeat=3")
    sentence = command(home, "status").sentence
    file = home.conf / "common.properties"
    assert sentence.startswith(f"{file}: hearbeat: unknown key; known are agent.host, ")


def test_wrong_value_is_one_sentence_and_status_2(pool: Dispatcher, home: Installation) -> None:
    configured_for(pool, home, more="worker.slots=many")
    assert "worker.slots: 'many' is not valid" in command(home, "status").sentence


def test_installing_where_there_is_no_spark_is_one_sentence_and_status_2(
    home: Installation,
) -> None:
    sentence = command(home, "install", str(home.scratch)).sentence
    assert sentence.startswith(f"There is no Spark in {home.scratch} ")


def test_an_unknown_option_is_refused_with_status_2(home: Installation) -> None:
    ended = command(home, "status", "--yaml")
    assert (ended.code, ended.out) == (2, "")
    assert "--yaml" in ended.err
    assert "Traceback" not in ended.err
