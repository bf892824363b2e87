"""The catalog: its rows are complete, and mistakes in one are found with its name."""

from __future__ import annotations

import pytest
from genai_prices.data_snapshot import get_snapshot

from services.providers.base_url import normalise_base_url
from services.providers.catalog import CatalogRow, load_catalog, parse_catalog
from services.runtime.config import ConfigError

ROWS = load_catalog()


def test_the_rows_are_there() -> None:
    assert set(ROWS) >= {
        "openai", "anthropic", "openai_compatible", "ollama", "groq", "deepseek", "openrouter", "vllm", "demo",
    }  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_complete(name: str) -> None:
    row = ROWS[name]
    assert {"completion", "streaming"} <= row.capabilities
    if row.custom:
        return
    assert row.documentation_url.startswith("https://")
    if row.base_url:
        assert normalise_base_url(row.base_url) == row.base_url
    headers = [*row.headers, *row.header_environment]
    assert [header for header in headers if header != header.lower()] == []
    assert not row.drops & row.renames.keys()


ROW = 'auth = "none"\ncapabilities = ["completion"]\ndialect = "openai_chat"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[acme]\n{ROW}colour = 1", r"catalog.toml: acme.colour: Extra inputs"),
        ("[acme]\ndialect = 'x'\nauth = 'none'", r"acme.capabilities: Field required"),
        (f"[acme]\n{ROW}".replace("none", "magic"), r"acme.auth: "),
        (f"[acme]\n{ROW}".replace("completion", "levitation"), r"acme.capabilities: .*levitation"),
        (f"[acme]\n{ROW}custom = 'demo'", r"acme: .*exactly one of dialect and custom"),
        (f"[acme]\n{ROW}".replace("none", "bearer"), r"acme: .*credential_environment is needed"),
        (f"[acme]\n{ROW}drops = 'n'", r"acme.drops: "),
    ],
)
def test_a_mistake_is_found_with_its_row(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_catalog(text)


def test_rows_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ROWS["openai"].base_url = "http://evil.example"


def test_only_rows_that_send_a_credential_need_one() -> None:
    assert {name for name, row in ROWS.items() if row.needs_credential} == {
        "openai", "anthropic", "groq", "deepseek", "openrouter",
    }  # fmt: skip
    assert isinstance(ROWS["demo"], CatalogRow)


def test_the_names_in_the_price_data_exist() -> None:
    known = {provider.id for provider in get_snapshot().providers}
    assert {row.prices for row in ROWS.values() if row.prices} <= known
