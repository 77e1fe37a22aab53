"""`common.properties`: what is written there is what holds, and what is wrong is refused."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.errors import SettingsError
from common.settings import FILE_NAME, Destination, Fallback, Home, LogLevel, SelectorName, Settings
from tests.services import ROOT

TEMPLATE = ROOT / "conf" / "common.properties.template"
KEYS = {field.replace("_", ".") for field in Settings.model_fields}
SECRETS = ("pool.token", "redis.password")
SECRET = "s3cret-never-shown"
# A key as the template lists it, commented out or not: `#redis.port=6379`.
LISTED = re.compile(r"^#? ?(?P<key>[a-z]+(?:\.[a-z]+)*) ?= ?(?P<value>.*)$")


def write(folder: Path, text: str) -> Path:
    """A configuration folder with this `common.properties`, in its Java encoding."""
    (folder / FILE_NAME).write_bytes(text.encode("latin-1"))
    return folder


def refused(folder: Path, text: str) -> SettingsError:
    with pytest.raises(SettingsError) as refusal:
        Settings.load(write(folder, text))
    assert refusal.value.source == str(folder / FILE_NAME)
    assert "\n" not in str(refusal.value), "a sentence, not a report"
    return refusal.value


def test_missing_file_leaves_every_default(tmp_path: Path) -> None:
    settings = Settings.load(tmp_path)
    assert settings == Settings()
    assert settings.reschedule_dst_executor is Destination.EXTERNAL
    assert settings.reschedule_fallback is Fallback.INTERNAL
    assert settings.reschedule_fallback_after == 60
    assert settings.host_selector is SelectorName.LEAST_LOADED
    assert (settings.redis_host, settings.redis_port) == ("", 6379)
    assert settings.dispatcher_host == settings.agent_host == "127.0.0.1"
    assert settings.log_level is LogLevel.INFO


def test_empty_value_is_the_default(tmp_path: Path) -> None:
    text = "".join(f"{key}=\n" for key in KEYS)
    assert Settings.load(write(tmp_path, text)) == Settings()


def listed() -> dict[str, str]:
    lines = map(LISTED.match, TEMPLATE.read_text().splitlines())
    return {line["key"]: line["value"] for line in lines if line and line["key"] in KEYS}


def test_template_lists_exactly_the_known_keys() -> None:
    lines = map(LISTED.match, TEMPLATE.read_text().splitlines())
    keys = [line["key"] for line in lines if line]
    assert sorted(keys) == sorted(KEYS)


def test_template_as_it_is_changes_nothing(tmp_path: Path) -> None:
    assert Settings.load(write(tmp_path, TEMPLATE.read_text())) == Settings()


def test_commented_defaults_of_the_template_are_the_real_ones(tmp_path: Path) -> None:
    text = "".join(f"{key}={value}\n" for key, value in listed().items())
    assert Settings.load(write(tmp_path, text)) == Settings()
    shown = {key for key, value in listed().items() if value.strip()}
    with_default = {
        key for key, value in Settings().model_dump(mode="json", by_alias=True).items() if value
    }
    # 0 and nothing mean "found out" or "none": those may be shown or left out.
    assert with_default <= shown


def test_values_are_taken_from_the_file(tmp_path: Path) -> None:
    text = (
        "reschedule.dst.executor=hybrid\nredis.host=db\nredis.port=6380\n"
        "host.selector=ROUND_ROBIN\nheartbeat=2.5\nworker.slots=3\n"
    )
    settings = Settings.load(write(tmp_path, text))
    assert settings.reschedule_dst_executor is Destination.HYBRID
    assert (settings.redis_host, settings.redis_port) == ("db", 6380)
    assert settings.host_selector is SelectorName.ROUND_ROBIN
    assert (settings.heartbeat, settings.worker_slots) == (2.5, 3)


def test_unknown_key_is_refused_by_name_with_the_known_ones(tmp_path: Path) -> None:
    error = refused(tmp_path, "redis.hots=here\n")
    assert error.key == "redis.hots"
    assert str(error).startswith(f"{tmp_path / FILE_NAME}: redis.hots: unknown key; known are ")
    assert all(key in str(error) for key in KEYS)


@pytest.mark.parametrize("key", ["redis_host", "Redis.Host", "redis.host.", "redishost"])
def test_only_the_documented_spelling_of_a_key_is_known(tmp_path: Path, key: str) -> None:
    assert "unknown key" in refused(tmp_path, f"{key}=here\n").problem


@given(st.from_regex(r"[a-z][a-z._-]{0,20}", fullmatch=True).filter(lambda key: key not in KEYS))
def test_any_other_key_is_refused(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert refused(folder, f"{key}=1\n").key == key


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("reschedule.dst.executor", "EXTERNAL", "'external', 'internal' or 'hybrid'"),
        ("reschedule.fallback", "never", "'internal', 'fail' or 'wait'"),
        ("reschedule.fallback.after", "-1", "greater than or equal to 0"),
        ("reschedule.fallback.after", "inf", "finite number"),
        ("redis.port", "seven", "valid integer"),
        ("redis.port", "65536", "less than or equal to 65535"),
        ("dispatcher.port", "-1", "greater than or equal to 0"),
        ("host.selector", "random", "'RANDOM', 'ROUND_ROBIN' or 'LEAST_LOADED'"),
        ("heartbeat", "0.4", "greater than or equal to 0.5"),
        ("heartbeat", "nan", "finite number"),
        ("heartbeat", "10s", "valid number"),
        ("worker.slots", "1.5", "valid integer"),
        ("message.max.bytes", "1023", "greater than or equal to 1024"),
        ("frame.max.bytes", "2147483648", "less than or equal to 2147483647"),
        ("log.level", "LOUD", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ],
)
def test_bad_value_is_refused_by_name_with_what_was_expected(
    tmp_path: Path, key: str, value: str, expected: str
) -> None:
    sentence = str(refused(tmp_path, f"{key}={value}\n"))
    assert sentence.startswith(f"{tmp_path / FILE_NAME}: {key}: {value!r} is not valid: ")
    assert expected in sentence


@pytest.mark.parametrize("text", ["redis.host=\\uD8\n", "redis.host=\\uzzzz\n"])
def test_file_that_is_no_properties_file_is_refused(tmp_path: Path, text: str) -> None:
    assert "cannot be read" in refused(tmp_path, text).problem


def test_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        Settings.load(tmp_path)


def test_secrets_are_masked_wherever_settings_are_shown(tmp_path: Path) -> None:
    text = "".join(f"{key}={SECRET}\n" for key in SECRETS)
    settings = Settings.load(write(tmp_path, text))
    assert settings.pool_token.get_secret_value() == SECRET
    assert settings.redis_password.get_secret_value() == SECRET
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


@pytest.mark.parametrize("wrong", ["redis.port=x", "redis.pasword=y", "heartbeat=0"])
def test_secrets_are_in_no_error_text(tmp_path: Path, wrong: str) -> None:
    text = "".join(f"{key}={SECRET}\n" for key in SECRETS) + wrong + "\n"
    assert SECRET not in str(refused(tmp_path, text))


@pytest.mark.parametrize("field", ["pool_token", "redis_password"])
def test_bad_secret_is_named_and_not_shown(tmp_path: Path, field: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.load(tmp_path, **{field: [SECRET]})
    assert refusal.value.key == field.replace("_", ".")
    assert "***" in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_overrides_win_over_the_file_and_none_leaves_it(tmp_path: Path) -> None:
    write(tmp_path, "worker.slots=3\nworker.port=1234\n")
    settings = Settings.load(tmp_path, worker_slots=5, worker_port=None, dispatcher_urls=("a",))
    assert (settings.worker_slots, settings.worker_port) == (5, 1234)
    assert settings.dispatcher_urls == ("a",)


def test_bad_override_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.load(tmp_path, dispatcher_port=70_000)
    assert refusal.value.key == "dispatcher.port"


@given(st.lists(st.from_regex(r"[a-z0-9:/.]{1,12}", fullmatch=True), max_size=5), st.data())
def test_names_are_split_at_commas(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    separator = data.draw(st.sampled_from([",", ", ", " ,", " , ", ",,"]))
    folder = write(
        tmp_path_factory.getbasetemp(), f"dispatcher.urls={separator.join(names)}\n"
    )
    assert Settings.load(folder).dispatcher_urls == tuple(names)


@pytest.mark.parametrize(
    "text",
    [
        "redis.host=a b",
        "redis.host = a b",
        "redis.host: a b",
        "redis.host:a b",
        "redis.host a b",
        "  redis.host\t=\ta b  ",
        "redis.host=a \\\n    b",
        "redis.host=a\\u0020b",
        "redis\\.host=a b",
        "! a comment\n# another\n\nredis.host=a b",
        "redis.host=first\nredis.host=a b",
        "redis.host=a b\r\n",
    ],
)
def test_java_properties_syntax_is_understood(tmp_path: Path, text: str) -> None:
    assert Settings.load(write(tmp_path, text)).redis_host == "a b"


@given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]), min_size=1))
def test_escaped_value_comes_out_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, value: str
) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in value)
    folder = write(tmp_path_factory.getbasetemp(), f"redis.password={escaped}\n")
    assert Settings.load(folder).redis_password.get_secret_value() == value.strip()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().redis_host = "elsewhere"


def test_home_is_the_checkout_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "CONF_DIR", "PID_DIR"):
        monkeypatch.delenv(f"EXTERNAL_SPARK_{name}", raising=False)
    assert Home.from_environment() == Home(root=ROOT, conf=ROOT / "conf", pids=ROOT / "tmp")
    monkeypatch.setenv("EXTERNAL_SPARK_HOME", str(tmp_path))
    assert Home.from_environment().conf == tmp_path / "conf"
    monkeypatch.setenv("EXTERNAL_SPARK_CONF_DIR", str(tmp_path / "c"))
    monkeypatch.setenv("EXTERNAL_SPARK_PID_DIR", str(tmp_path / "p"))
    home = Home.from_environment()
    assert (home.conf, home.pids) == (tmp_path / "c", tmp_path / "p")
    assert home.jars == tmp_path / "jars"
