"""`conf/hosts`: what it may say, what is refused, and the plan that comes of it."""

import shlex
from pathlib import Path

import pytest

from common import hosts as command
from common.errors import EnvironmentProblem, SettingsError
from common.hosts import DEFAULT_HOSTS, FILE_NAME, Hosts, is_local, plan
from common.security import TOKEN_FILE, TOKEN_VARIABLE
from common.settings import Home, Settings
from tests.services import ROOT

# Addresses for documentation: nobody's, and no name server is asked for them.
FAR, FARTHER = "203.0.113.1", "203.0.113.2"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    (tmp_path / "conf").mkdir()
    return Home(root=tmp_path, conf=tmp_path / "conf", pids=tmp_path / "tmp")


def loaded(home: Home, *lines: str, **settings: object) -> Hosts:
    (home.conf / FILE_NAME).write_text("\n".join(lines) + "\n")
    return Hosts.load(Settings.load(home.conf, **settings), home)


def refusal(home: Home, *lines: str, **settings: object) -> SettingsError:
    """The error that names the file and the line."""
    with pytest.raises(SettingsError) as caught:
        loaded(home, *lines, **settings)
    return caught.value


def commands(home: Home, *lines: str, **settings: object) -> list[tuple[str, str, str]]:
    hosts = loaded(home, *lines, **settings)
    return plan(hosts, Settings.load(home.conf, **settings), home)


def test_without_the_file_there_are_one_dispatcher_and_two_workers_of_one_slot(
    home: Home,
) -> None:
    hosts = Hosts.load(Settings(), home)
    assert [(host.name, host.instance) for host in hosts.dispatchers] == [("localhost", 1)]
    assert [(host.instance, host.options) for host in hosts.workers] == [
        (1, {"slots": "1"}),
        (2, {"slots": "1"}),
    ]
    assert hosts.urls == ("http://127.0.0.1:7070",)


def test_the_template_says_what_holds_without_the_file(home: Home) -> None:
    template = (ROOT / "conf" / "hosts.template").read_text().splitlines()
    said = [line for line in template if line and not line.startswith("#")]
    assert tuple(said) == DEFAULT_HOSTS
    assert plan(loaded(home, *template), Settings(), home) == plan(
        loaded(home, *DEFAULT_HOSTS), Settings(), home
    )


def test_comments_blank_lines_and_quotes_are_read_as_a_shell_does(home: Home) -> None:
    hosts = loaded(
        home,
        "# the pool",
        "  [dispatcher]  # here",
        f"{FAR} host={FAR}",
        "",
        "[worker]",
        f'{FAR} slots=4 home="/opt/spark proxy"  # the big one',
        f"{FAR} memory-mb=2048",
        f"{FARTHER} host=big port=9 slots=8",
    )
    assert [(host.name, host.instance, host.options) for host in hosts.workers] == [
        (FAR, 1, {"slots": "4", "home": "/opt/spark proxy"}),
        (FAR, 2, {"memory-mb": "2048"}),
        (FARTHER, 1, {"host": "big", "port": "9", "slots": "8"}),
    ]


def test_sections_may_come_in_any_order_and_again(home: Home) -> None:
    hosts = loaded(
        home, "[worker]", "localhost", "[dispatcher]", "localhost", "[worker]", "localhost"
    )
    assert [host.instance for host in hosts.workers] == [1, 2]
    assert len(hosts.dispatchers) == 1


def test_this_machine_is_known_by_any_name_and_counted_once(home: Home) -> None:
    hosts = loaded(home, "[dispatcher]", "localhost", "[worker]", "localhost", "127.0.0.1")
    assert [(host.name, host.instance) for host in hosts.workers] == [
        ("localhost", 1),
        ("localhost", 2),
    ]
    assert not is_local(FAR)
    assert not is_local("nobody.invalid")


@pytest.mark.parametrize(
    ("line", "key", "problem"),
    [
        ("[workers]", "[workers]", "unknown section; known are [dispatcher], [worker]"),
        ("[worker", "[worker", "unknown section"),
        ("localhost slot=1", "slot=1", "unknown option of a worker; known are slots=, memory-mb="),
        ("localhost slots", "slots", "unknown option of a worker"),
        ("localhost slots=", "slots=", "unknown option of a worker"),
        ("localhost slots=0", "slots=0", "expected a whole number above 0"),
        ("localhost slots=-1", "slots=-1", "expected a whole number above 0"),
        ("localhost slots=two", "slots=two", "expected a whole number above 0"),
        ("localhost port=1.5", "port=1.5", "expected a whole number above 0"),
        ("localhost memory-mb=1g", "memory-mb=1g", "expected a whole number above 0"),
        ("localhost home=/opt", "home=/opt", "is for other machines only"),
        ('localhost home="/opt', 'localhost home="/opt', "cannot be read: No closing quotation"),
    ],
)
def test_a_wrong_line_is_refused_with_file_and_line(
    home: Home, line: str, key: str, problem: str
) -> None:
    error = refusal(home, "[dispatcher]", "localhost", "[worker]", "", line)
    assert (error.source, error.key) == (f"{home.conf / FILE_NAME}:5", key)
    assert error.problem.startswith(problem)
    assert str(error).startswith(f"{home.conf / FILE_NAME}:5: {key}: ")


def test_slots_are_no_option_of_a_dispatcher(home: Home) -> None:
    error = refusal(home, "[dispatcher]", "localhost slots=2")
    assert error.problem == "unknown option of a dispatcher; known are host=, port=, home="


def test_a_host_before_the_first_section_is_refused(home: Home) -> None:
    error = refusal(home, "# none yet", "localhost", "[worker]")
    assert (error.source, error.key) == (f"{home.conf / FILE_NAME}:2", "localhost")


def test_a_file_that_is_no_text_is_refused_by_name(home: Home) -> None:
    (home.conf / FILE_NAME).write_bytes(b"[worker]\nh\xff\n")
    with pytest.raises(SettingsError, match="file: cannot be read") as caught:
        Hosts.load(Settings(), home)
    assert caught.value.source == str(home.conf / FILE_NAME)


def test_workers_without_a_dispatcher_need_its_url_in_the_settings(home: Home) -> None:
    with pytest.raises(EnvironmentProblem, match=r"no \[dispatcher\]"):
        loaded(home, "[worker]", "localhost")
    hosts = loaded(home, "[worker]", "localhost", dispatcher_urls=("http://203.0.113.9:7",))
    assert hosts.urls == ("http://203.0.113.9:7",)
    given = Settings.load(home.conf, dispatcher_urls=hosts.urls)
    assert [role for role, _, _ in plan(hosts, given, home)] == ["worker"]


def test_dispatchers_on_one_machine_get_ports_one_above_the_other(home: Home) -> None:
    lines = ("[dispatcher]", "localhost", "localhost port=9000", "localhost", "[worker]")
    hosts = loaded(home, *lines, dispatcher_port=8000)
    assert hosts.urls == tuple(f"http://127.0.0.1:{port}" for port in (8000, 9000, 8002))


def test_every_worker_is_told_every_dispatcher(home: Home) -> None:
    lines = ("[dispatcher]", "localhost", "localhost host=::1", "[worker]", "localhost slots=2")
    told = commands(home, *lines, dispatcher_port=8000)
    urls = "--dispatcher http://127.0.0.1:8000 --dispatcher 'http://[::1]:8001'"
    assert told == [
        ("redis", "localhost", "start-redis.sh"),
        ("dispatcher", "localhost", "start-dispatcher.sh --instance 1 --port 8000"),
        ("dispatcher", "localhost", "start-dispatcher.sh --instance 2 --host ::1 --port 8001"),
        ("worker", "localhost", f"start-worker.sh --instance 1 --slots 2 {urls}"),
    ]


def test_any_free_port_is_none_that_workers_could_be_told(home: Home) -> None:
    error = refusal(home, "[dispatcher]", "localhost", dispatcher_port=0)
    assert error.problem == "needs port=N when dispatcher.port is 0"


@pytest.mark.parametrize(
    ("dispatcher", "worker"),
    [
        ("localhost", FAR),  # loopback, and somebody from elsewhere is to reach it
        ("localhost host=localhost", FAR),
        ("localhost host=0.0.0.0", "localhost"),  # no address that anybody could call
        (FAR, "localhost"),  # dispatcher.host is that of this machine
    ],
)
def test_a_dispatcher_that_its_workers_could_not_reach_is_refused(
    home: Home, dispatcher: str, worker: str
) -> None:
    error = refusal(home, "[dispatcher]", dispatcher, "[worker]", worker)
    assert error.source == f"{home.conf / FILE_NAME}:2"
    assert error.problem.startswith("needs host=ADDRESS")


def test_the_embedded_redis_is_not_for_dispatchers_elsewhere(home: Home) -> None:
    lines = ("[dispatcher]", f"{FAR} host={FAR}", "[worker]", "localhost")
    with pytest.raises(EnvironmentProblem, match="embedded Redis serves this machine only"):
        commands(home, *lines)
    roles = [role for role, _, _ in commands(home, *lines, redis_host="203.0.113.9")]
    assert roles == ["dispatcher", "worker"]


def test_other_machines_are_started_by_ssh_with_the_token_on_standard_input(home: Home) -> None:
    lines = ("[dispatcher]", f"localhost host={FARTHER}", "[worker]", f"{FAR} home='/opt/a b'")
    *_, (role, machine, line) = commands(home, *lines)
    assert (role, machine) == ("worker", FAR)
    shell, option, script = shlex.split(line)
    assert (shell, option) == ("bash", "-c")
    read, _, start = script.partition(" && exec ")
    assert read == f"IFS= read -r {TOKEN_VARIABLE} && export {TOKEN_VARIABLE}"
    assert shlex.split(start) == [
        *("bash", "/opt/a b/sbin/start-worker.sh", "--instance", "1"),
        *("--dispatcher", f"http://{FARTHER}:7070"),
    ]


def test_other_machines_are_stopped_once_each(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded(
        home,
        *("[dispatcher]", f"localhost host={FARTHER}"),
        *("[worker]", "localhost", FAR, f"{FAR} slots=2"),
    )
    monkeypatch.setenv("EXTERNAL_SPARK_HOME", str(home.root))
    monkeypatch.delenv("EXTERNAL_SPARK_CONF_DIR", raising=False)
    command.stop()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{FAR}\tbash {home.root}/sbin/stop-all.sh --local"


def test_the_token_of_the_pool_is_printed_for_the_other_machines(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.conf / TOKEN_FILE).write_text("the token\n")
    monkeypatch.setenv("EXTERNAL_SPARK_HOME", str(home.root))
    monkeypatch.delenv("EXTERNAL_SPARK_CONF_DIR", raising=False)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    command.token()
    assert capsys.readouterr().out == "the token\n"
