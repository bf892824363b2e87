"""Takes a provider's own secrets out of what it says: upstreams like to show the key they were sent in their errors.

The one rule: what is concealed is the exact value, so it holds for keys of every form, also of those no pattern knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from trunkline.errors import GatewayError

__all__ = ["Concealment"]

# A shorter value ("none", "EMPTY", a tenant's number) is no secret, and would be found in words that mean something.
_MIN_LENGTH: Final = 8
_MASK: Final = "[redacted]"


class Concealment:
    """Use it as `with concealment:` around what asks the provider: each GatewayError that leaves is without secrets."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Iterable[str]) -> None:
        long_enough = {secret for secret in secrets if len(secret) >= _MIN_LENGTH}
        # The longest first, so that one which holds another is concealed as a whole.
        ordered = sorted(long_enough, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._secrets is None or not isinstance(error, GatewayError):
            return
        error.message = self._secrets.sub(_MASK, error.message)
        error.args = (error.message,)
        for name, value in error.metadata.items():
            error.metadata[name] = self._secrets.sub(_MASK, value)
