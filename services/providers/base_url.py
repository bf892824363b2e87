"""Base URLs as people write them, in the one form that calls are built on: no trailing slash, nothing secret."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

__all__ = ["normalise_base_url"]


def normalise_base_url(given: str, default: str = "") -> str:
    """Return the base URL without a trailing slash. Raises ValueError with what is wrong, never with the URL itself.

    What `given` leaves out is taken from `default`, the catalog's address of the provider: the scheme and port of an
    address that is only a host ("127.0.0.1", "gpu1:8080"), and the path of one that has none, so that
    "http://gpu1:11434", "http://gpu1:11434/" and "http://gpu1:11434/v1/" are the same. Without a default the path is
    taken as it is.
    """
    text = given.strip()
    known = urlsplit(default)
    has_scheme = "://" in text
    if not has_scheme:
        text = f"{known.scheme or 'http'}://{text}"
    url = urlsplit(text)
    _check(url)
    host, port = url.hostname or known.hostname or "", url.port
    if not host:
        raise ValueError("must name a host")
    if port is None and not has_scheme:
        port = known.port
    authority = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    if port is not None:
        authority += f":{port}"
    path = url.path.rstrip("/") or known.path.rstrip("/")
    return f"{url.scheme}://{authority}{path}"


def _check(url: SplitResult) -> None:
    if url.scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    if url.username is not None or url.password is not None:
        raise ValueError("must hold no credentials; give them as api_key or in headers")
    if url.query or url.fragment:
        raise ValueError("must have no query and no fragment")
    try:
        (url.hostname or "host").encode("idna")
        is_valid = url.port != 0 and url.path.isascii() and not any(map(str.isspace, url.netloc + url.path))
    except ValueError:  # UnicodeError is one
        is_valid = False
    if not is_valid:
        raise ValueError("must have a valid host, port and path")
