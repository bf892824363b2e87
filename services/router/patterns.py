"""Names and wildcards of models: which configured name covers a name. Pure.

An exact name wins over any wildcard; among wildcards the one with the most fixed characters wins, then the one with
the longer beginning.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["WILDCARD", "PatternIndex", "matched_text", "substitute"]

WILDCARD = "*"


class PatternIndex:
    """The configured names, in the order in which they are tried."""

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._exact = frozenset(name for name in names if WILDCARD not in name)
        wildcards = [(*name.split(WILDCARD, 1), name) for name in names if WILDCARD in name]
        wildcards.sort(key=lambda item: (-len(item[0]) - len(item[1]), -len(item[0]), item[2]))
        self._wildcards = tuple(wildcards)

    def find(self, name: str) -> str | None:
        """Return the configured name that covers `name`, or None. A wildcard covers itself, as if it were a name."""
        if name in self._exact:
            return name
        length = len(name)
        for prefix, suffix, pattern in self._wildcards:
            if length > len(prefix) + len(suffix) and name.startswith(prefix) and name.endswith(suffix):
                return pattern
        return None


def matched_text(pattern: str, name: str) -> str:
    """Return what the `*` of a pattern that covers `name` stands for; "" for a pattern without one."""
    prefix, star, suffix = pattern.partition(WILDCARD)
    return name[len(prefix) : len(name) - len(suffix)] if star else ""


def substitute(template: str, text: str) -> str:
    """Return the template with `text` in place of its `*`."""
    return template.replace(WILDCARD, text)
