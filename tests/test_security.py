"""Secrets: made once, kept private, and compared without telling anything."""

import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import EnvironmentProblem
from common.security import (
    REDIS_FILE,
    TOKEN_FILE,
    TOKEN_VARIABLE,
    new_token,
    pool_token,
    redis_password,
    same_token,
)
from common.settings import Home, Settings
from tests.services import ROOT, environment

TELL_TOKEN = """
import sys
from pathlib import Path
from common.security import pool_token
from common.settings import Home, Settings
conf = Path(sys.argv[1])
sys.stdin.readline()
print(pool_token(Settings.load(conf), Home(root=conf, conf=conf, pids=conf)))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    return Home(root=tmp_path, conf=tmp_path / "conf", pids=tmp_path / "tmp")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_token_file_is_made_once_and_for_its_owner_only(home: Home) -> None:
    first = pool_token(Settings(), home)
    assert len(first) >= 32
    assert pool_token(Settings(), home) == first
    assert (home.conf / TOKEN_FILE).read_text() == first + "\n"
    assert mode(home.conf / TOKEN_FILE) == 0o600
    assert [path.name for path in home.conf.iterdir()] == [TOKEN_FILE], "a draft was left"


def test_token_of_an_existing_file_is_taken(home: Home) -> None:
    home.conf.mkdir()
    (home.conf / TOKEN_FILE).write_text("  given by hand \n")
    assert pool_token(Settings(), home) == "given by hand"


def test_empty_token_file_is_refused(home: Home) -> None:
    home.conf.mkdir()
    (home.conf / TOKEN_FILE).write_text("\n")
    with pytest.raises(EnvironmentProblem, match=TOKEN_FILE):
        pool_token(Settings(), home)


def test_threads_that_start_together_agree_on_one_token(home: Home) -> None:
    for turn in range(20):
        folder = home.model_copy(update={"conf": home.conf / str(turn)})
        with ThreadPoolExecutor(8) as threads:
            tokens = set(threads.map(lambda _, at=folder: pool_token(Settings(), at), range(8)))
        assert tokens == {(folder.conf / TOKEN_FILE).read_text().strip()}
        assert [path.name for path in folder.conf.iterdir()] == [TOKEN_FILE]


def test_processes_that_start_together_agree_on_one_token(home: Home) -> None:
    home.conf.mkdir()
    command = [sys.executable, "-c", TELL_TOKEN, str(home.conf)]
    started = [
        subprocess.Popen(
            command,
            env=environment({}),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        tokens = {process.communicate(timeout=60)[0].strip() for process in started}
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert tokens == {(home.conf / TOKEN_FILE).read_text().strip()}
    assert mode(home.conf / TOKEN_FILE) == 0o600


def test_token_of_the_environment_wins(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.model_validate({"pool.token": "of the settings"})
    assert pool_token(settings, home) == "of the settings"
    monkeypatch.setenv(TOKEN_VARIABLE, "of the environment")
    assert pool_token(settings, home) == "of the environment"
    assert not (home.conf / TOKEN_FILE).exists()


def test_token_that_cannot_be_kept_is_an_environment_problem(home: Home) -> None:
    home.conf.write_text("a file where the folder should be")
    with pytest.raises(EnvironmentProblem, match="cannot be read or made") as problem:
        pool_token(Settings(), home)
    assert str(home.conf / TOKEN_FILE) in str(problem.value)


def test_embedded_redis_gets_a_password_of_its_own(home: Home) -> None:
    first = redis_password(Settings(), home)
    assert len(first.get_secret_value()) >= 32
    assert redis_password(Settings(), home) == first
    assert mode(home.conf / REDIS_FILE) == 0o600
    assert first.get_secret_value() != pool_token(Settings(), home)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"redis.password": "given"}, "given"),
        ({"redis.host": "elsewhere"}, ""),
        ({"redis.host": "elsewhere", "redis.password": "given"}, "given"),
    ],
)
def test_given_redis_makes_no_password(
    home: Home, values: dict[str, str], expected: str
) -> None:
    settings = Settings.model_validate(values)
    assert redis_password(settings, home).get_secret_value() == expected
    assert not home.conf.exists()


@given(st.text(), st.text())
def test_same_token_is_equality_on_any_text(given_: str, expected: str) -> None:
    assert same_token(given_, expected) == (given_ == expected)
    assert same_token(expected, expected)


def test_new_tokens_differ_and_go_into_headers() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.isascii() and token.isprintable() and " " not in token for token in tokens)
