"""Base URLs as people write them."""

from __future__ import annotations

import pytest

from services.providers.base_url import normalise_base_url

OLLAMA = "http://127.0.0.1:11434/v1"


@pytest.mark.parametrize(
    ("given", "default", "url"),
    [
        ("http://127.0.0.1:9000/v1", "", "http://127.0.0.1:9000/v1"),
        ("http://127.0.0.1:9000/v1/", "", "http://127.0.0.1:9000/v1"),
        (" http://127.0.0.1:9000/v1//\n", "", "http://127.0.0.1:9000/v1"),
        ("http://127.0.0.1:9000", "", "http://127.0.0.1:9000"),
        ("http://127.0.0.1:9000/", "", "http://127.0.0.1:9000"),
        ("https://Api.Example/Some/Path", "", "https://api.example/Some/Path"),
        ("https://api.groq.com", "https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
        ("https://api.groq.com/other", "https://api.groq.com/openai/v1", "https://api.groq.com/other"),
        ("http://gpu1:11434", OLLAMA, "http://gpu1:11434/v1"),
        ("http://gpu1:11434/", OLLAMA, "http://gpu1:11434/v1"),
        ("http://gpu1:11434/v1/", OLLAMA, "http://gpu1:11434/v1"),
        ("http://gpu1", OLLAMA, "http://gpu1/v1"),
        ("gpu1", OLLAMA, "http://gpu1:11434/v1"),
        ("gpu1:8080", OLLAMA, "http://gpu1:8080/v1"),
        (":56789", OLLAMA, "http://127.0.0.1:56789/v1"),
        ("0.0.0.0", OLLAMA, "http://0.0.0.0:11434/v1"),
        ("[::1]:8080", OLLAMA, "http://[::1]:8080/v1"),
        ("https://münchen.example", "", "https://xn--mnchen-3ya.example"),
    ],
)
def test_a_base_url_has_one_form(given: str, default: str, url: str) -> None:
    assert normalise_base_url(given, default) == url


@pytest.mark.parametrize(
    "given",
    [
        "ftp://a.example",
        "http://",
        "http://a..b",
        "http://user:sk-secret@a.example/v1",
        "http://sk-secret@a.example/v1",
        "http://a.example/v1?key=sk-secret",
        "http://a.example/v1#sk-secret",
        "http://a.example:99999",
        "http://a.example:port",
        "http://a.example:0",
        "http://[::1",
        "http://a b.example",
        "http://a.example/ä",
        "http://a.example/a b",
    ],
)
def test_what_is_no_base_url_is_refused_without_being_repeated(given: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        normalise_base_url(given)
    assert "sk-secret" not in str(caught.value)
