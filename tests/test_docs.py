"""The README and `docs/` agree with the code, and their links lead somewhere."""

import re
from pathlib import Path

import pytest

from common.settings import Settings
from tests.services import ROOT

CONFIGURATION = ROOT / "docs" / "configuration.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted(script.name for script in (ROOT / "sbin").glob("*.sh"))

# A row of the table of keys: `| `redis.port` | `6379` | ...`.
ROW = re.compile(r"^\| `(?P<key>[a-z.]+)` \| (?P<default>[^|]+?) \|", re.MULTILINE)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its blocks of code, in which `#` is a comment."""
    return FENCED.sub("", page.read_text())


def documented() -> dict[str, str]:
    """The default of each key, as the section on settings shows it."""
    section = CONFIGURATION.read_text().split("\n## Settings\n")[1].split("\n## ")[0]
    rows = [(row["key"], row["default"]) for row in ROW.finditer(section)]
    assert len(rows) == len(dict(rows)), "a key stands there twice"
    return dict(rows)


def shown(value: object) -> str:
    """A default as the table writes it; 60.0 seconds are 60 there."""
    if value in ("", []):
        return "empty"
    return f"`{int(value) if isinstance(value, float) and value.is_integer() else value}`"


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub makes anchors of them."""
    texts = (heading["text"].lower() for heading in HEADING.finditer(prose(page)))
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}


def test_each_key_and_its_default_are_documented() -> None:
    defaults = Settings().model_dump(mode="json", by_alias=True)
    assert documented() == {key: shown(value) for key, value in defaults.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.finditer(prose(page)):
        place, _, anchor = link["target"].partition("#")
        if "://" in place:
            continue
        target = (page.parent / place).resolve() if place else page
        assert target.is_relative_to(ROOT), f"{link['target']} is not a part of the project"
        assert target.exists(), f"{link['target']} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link['target']}: no such heading"


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_is_mentioned(script: str) -> None:
    assert any(script in page.read_text() for page in PAGES)
