"""A worker process: its own page, and its way to a dispatcher that comes and goes.

No executor is started here. The first worker builds the shim, which takes seconds.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.dispatchers import PASSWORD, client, configure
from tests.services import ROOT, ServiceProcess, free_port, redis_server, service, wait_for
from tests.stubs import SPARK

SPARK_HOME = ROOT / "spark" / "4.3.0" / "pyspark"
SLOTS = 3


@pytest.fixture(scope="module", autouse=True)
def _machine() -> None:
    missing = [] if shutil.which("java") else ["java"]
    if not SPARK_HOME.is_dir():
        missing.append(str(SPARK_HOME))
    if missing and os.environ.get("CI"):
        pytest.fail(f"missing here: {missing}")
    if missing:
        pytest.skip(f"missing here: {missing}")


def a_worker(folder: Path, *dispatchers: str) -> AbstractContextManager[ServiceProcess]:
    env = {
        "EXTERNAL_SPARK_HOME": str(ROOT),
        "EXTERNAL_SPARK_CONF_DIR": str(folder),
        "SPARK_HOME": str(SPARK_HOME),
    }
    arguments = ["--slots", str(SLOTS), "--memory-mb", "2048"]
    for url in dispatchers:
        arguments += ["--dispatcher", url]
    return service("worker", *arguments, env=env, folder=folder, name="worker")


def a_dispatcher(folder: Path, port: int) -> AbstractContextManager[ServiceProcess]:
    env = {"EXTERNAL_SPARK_CONF_DIR": str(folder)}
    return service(
        "dispatcher", "--port", str(port), env=env, folder=folder, name="dispatcher"
    )


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A worker whose dispatcher is not there."""
    folder = tmp_path_factory.mktemp("worker")
    configure(folder, redis_port=1, more=f"spark.homes={SPARK_HOME}")
    with a_worker(folder, f"http://127.0.0.1:{free_port()}") as started:
        yield started


def test_health_needs_no_token(worker: ServiceProcess) -> None:
    response = httpx.get(f"{worker.url}/healthz")
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["service"]) == ("ok", "worker")


@pytest.mark.parametrize("path", ["/status", "/metrics", "/nowhere"])
@pytest.mark.parametrize("token", ["", "wrong"])
def test_everything_else_needs_the_token(
    worker: ServiceProcess, path: str, token: str
) -> None:
    with client(worker.url, token) as stranger:
        assert stranger.get(path).status_code == 401


def test_status_tells_what_is_lent_and_that_it_is_not_attached(worker: ServiceProcess) -> None:
    with client(worker.url) as owner:
        assert owner.get("/status").json() == {
            "id": worker.identity["id"],
            "dispatcher": "",
            "slots": SLOTS,
            "slots_busy": 0,
            "tasks_done": 0,
            "tasks_failed": 0,
        }


def test_metrics_are_prometheus_text(worker: ServiceProcess) -> None:
    with client(worker.url) as owner:
        text = owner.get("/metrics").text
    values = {
        sample.name.removeprefix("spark_proxy_worker_"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values == {
        "slots": SLOTS,
        "slots_busy": 0,
        "tasks_done": 0,
        "tasks_failed": 0,
        "executors": 0,
    }


def attached_to(worker: ServiceProcess) -> str:
    with client(worker.url) as owner:
        return str(owner.get("/status").json()["dispatcher"])


def test_worker_waits_for_its_dispatcher_and_attaches_again_when_it_comes_back(
    tmp_path: Path,
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with redis_server(tmp_path, PASSWORD) as redis_port:
        configure(tmp_path, redis_port, more=f"spark.homes={SPARK_HOME}")
        # The first one is never there: they are tried in turn.
        with a_worker(tmp_path, f"http://127.0.0.1:{free_port()}", url) as worker:
            assert attached_to(worker) == ""
            for _ in range(2):
                with a_dispatcher(tmp_path, port) as dispatcher:
                    wait_for(lambda: attached_to(worker) == url, what="attached")
                    expect_worker(dispatcher, worker)
                    dispatcher.process.kill()
                    wait_for(lambda: attached_to(worker) == "", what="noticed")
            with a_dispatcher(tmp_path, port) as dispatcher:
                wait_for(lambda: attached_to(worker) == url, what="attached")
                assert worker.stop() == 0
                assert state_at(dispatcher, worker) == "LEFT"
            assert "Traceback" not in worker.log.read_text()


def expect_worker(dispatcher: ServiceProcess, worker: ServiceProcess) -> None:
    with client(dispatcher.url) as shown:
        (known,) = shown.get("/status").json()["workers"]
    assert known["id"] == worker.identity["id"]
    assert (known["state"], known["slots"], known["memory_mb"]) == ("ATTACHED", SLOTS, 2048)
    assert known["sparks"] == [SPARK]
    assert known["host"] == "localhost", "the whole pool is on loopback"


def state_at(dispatcher: ServiceProcess, worker: ServiceProcess) -> str:
    with client(dispatcher.url) as shown:
        workers = shown.get("/status").json()["workers"]
    return str(next(w["state"] for w in workers if w["id"] == worker.identity["id"]))
