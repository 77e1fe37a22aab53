"""Secrets: the pool token, the embedded Redis's password, and how they are compared."""

import os
import secrets
import tempfile
from pathlib import Path

from pydantic import SecretStr

from common.errors import EnvironmentProblem
from common.settings import Home, Settings

TOKEN_FILE = "pool.token"
REDIS_FILE = "redis.password"
TOKEN_VARIABLE = "EXTERNAL_SPARK_POOL_TOKEN"
# 256 bits, as the standard library's default for tokens.
TOKEN_BYTES = 32


def new_token() -> str:
    """A fresh random token, safe in URLs and headers."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def same_token(given: str, expected: str) -> bool:
    """Compares in constant time, so that a wrong token tells nothing of the right one."""
    return secrets.compare_digest(given.encode(), expected.encode())


def pool_token(settings: Settings, home: Home) -> str:
    """The token of the pool: the environment's, else `pool.token`, else the file's.

    The file is made on first use, with mode 0600.

    Raises:
        EnvironmentProblem: the file cannot be made or read, or the token is not usable.
    """
    given = os.environ.get(TOKEN_VARIABLE) or settings.pool_token.get_secret_value()
    token = given or _kept_secret(home.conf / TOKEN_FILE)
    if not (token.isascii() and token.isprintable()):
        raise EnvironmentProblem(
            "The pool token has characters that no HTTP header carries",
            "Use printable ASCII, or remove it for a new one",
        )
    return token


def redis_password(settings: Settings, home: Home) -> SecretStr:
    """`redis.password`; the embedded Redis has one of its own, made on first use."""
    if settings.redis_host or settings.redis_password.get_secret_value():
        return settings.redis_password
    return SecretStr(_kept_secret(home.conf / REDIS_FILE))


def _kept_secret(path: Path) -> str:
    try:
        if not path.exists():
            _make_secret(path)
        kept = path.read_text().strip()
    except OSError as error:
        raise EnvironmentProblem(
            f"the secret in {path} cannot be read or made: {error.strerror}",
            "Make the folder writable, or give the token in common.properties",
        ) from error
    if not kept:
        raise EnvironmentProblem(f"the secret in {path} is empty", "Remove the file for a new one")
    return kept


def _make_secret(path: Path) -> None:
    """Written aside and linked into place: whoever comes second reads the first one's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(new_token() + "\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(draft)
