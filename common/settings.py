"""The settings: `common.properties` as one frozen, validated object.

Built once in each `main` and passed in; nothing reads the environment or the file later.
`conf/common.properties.template` documents every key.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Self

import javaproperties
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from common.errors import SettingsError

FILE_NAME = "common.properties"


class Destination(StrEnum):
    """Where the tasks of a job run: `reschedule.dst.executor`."""

    EXTERNAL = "external"
    INTERNAL = "internal"
    HYBRID = "hybrid"


class Fallback(StrEnum):
    """What happens while the pool is empty: `reschedule.fallback`."""

    INTERNAL = "internal"
    FAIL = "fail"
    WAIT = "wait"


class SelectorName(StrEnum):
    """How workers are chosen for an application: `host.selector`."""

    RANDOM = "RANDOM"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_LOADED = "LEAST_LOADED"


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def _names(value: Any) -> Any:
    """`a, b ,c` as a tuple of names."""
    if isinstance(value, str):
        return tuple(name for part in value.split(",") if (name := part.strip()))
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Port = Annotated[int, Field(ge=0, le=65535)]


def _alias(field: str) -> str:
    return field.replace("_", ".")


class Settings(BaseModel):
    """Every key of `common.properties`; the dots of a key are underscores here.

    Durations are in seconds, sizes in the unit that the name ends with.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_alias, allow_inf_nan=False
    )

    reschedule_dst_executor: Destination = Destination.EXTERNAL
    reschedule_fallback: Fallback = Fallback.INTERNAL
    reschedule_fallback_after: Annotated[float, Field(ge=0)] = 60.0

    redis_host: str = ""
    redis_port: Port = 6379
    redis_password: SecretStr = SecretStr("")

    pool_token: SecretStr = SecretStr("")
    pool_max_slots_per_app: Annotated[int, Field(ge=0)] = 0
    host_selector: SelectorName = SelectorName.LEAST_LOADED
    heartbeat: Annotated[float, Field(ge=0.5)] = 10.0

    dispatcher_host: str = "127.0.0.1"
    dispatcher_port: Port = 7070
    dispatcher_urls: Names = ()
    agent_host: str = "127.0.0.1"

    worker_host: str = ""
    worker_port: Port = 0
    worker_slots: Annotated[int, Field(ge=0)] = 0
    worker_memory_mb: Annotated[int, Field(ge=0)] = 0
    worker_drain: Annotated[float, Field(ge=0)] = 30.0
    worker_pythons: Names = ()
    spark_homes: Names = ()

    message_max_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    frame_max_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = 2**31 - 1
    log_level: LogLevel = LogLevel.INFO

    @classmethod
    def load(cls, conf_dir: Path, **overrides: Any) -> Self:
        """Reads `conf_dir/common.properties`; without the file the defaults hold.

        Args:
            conf_dir: the configuration folder.
            overrides: fields that the command line sets; `None` leaves the file's value.

        Raises:
            SettingsError: an unknown key or a bad value, by name, with what was expected.
        """
        path = conf_dir / FILE_NAME
        values: dict[str, Any] = _read(path) if path.exists() else {}
        values |= {_alias(key): value for key, value in overrides.items() if value is not None}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise _first_problem(str(path), error) from error


def _read(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as file:
            pairs = javaproperties.load(file)
    except (OSError, ValueError) as error:
        raise SettingsError(str(path), "file", f"cannot be read: {error}") from error
    # An empty value is a key left at its default: the template lists keys that way.
    return {key: value.strip() for key, value in pairs.items() if value.strip()}


def _first_problem(source: str, error: ValidationError) -> SettingsError:
    detail = error.errors()[0]
    key = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        known = ", ".join(sorted(_alias(field) for field in Settings.model_fields))
        return SettingsError(source, key, f"unknown key; known are {known}")
    shown = "***" if key in {"pool.token", "redis.password"} else repr(detail["input"])
    return SettingsError(source, key, f"{shown} is not valid: {detail['msg']}")


class Home(BaseModel):
    """The folders of one installation, from the environment of the process."""

    model_config = ConfigDict(frozen=True)

    root: Path
    conf: Path
    pids: Path

    @classmethod
    def from_environment(cls) -> Self:
        """`EXTERNAL_SPARK_HOME`, `EXTERNAL_SPARK_CONF_DIR` and `EXTERNAL_SPARK_PID_DIR`.

        The home defaults to the checkout that this package lies in.
        """
        root = Path(os.environ.get("EXTERNAL_SPARK_HOME") or Path(__file__).parent.parent)
        root = root.absolute()
        conf = Path(os.environ.get("EXTERNAL_SPARK_CONF_DIR") or root / "conf")
        pids = Path(os.environ.get("EXTERNAL_SPARK_PID_DIR") or root / "tmp")
        return cls(root=root, conf=conf.absolute(), pids=pids.absolute())

    @property
    def jars(self) -> Path:
        """Where the shim is kept, one jar per Spark version."""
        return self.root / "jars"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    def app_logs(self, app_id: str) -> Path:
        """The logs of one application: its agent's and its executors'."""
        return self.logs / "apps" / app_id

    @property
    def tmp(self) -> Path:
        """Scratch: pid files, executor folders, the embedded Redis."""
        return self.root / "tmp"

    @property
    def executors(self) -> Path:
        """Working folders of executors, in one of each process that starts any."""
        return self.tmp / "executors"
