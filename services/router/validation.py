"""What makes a chat unanswerable by anyone, found before anyone is asked. Cheap: one walk over the messages.

Callers over HTTP were checked by their JSON's decoder; this is for callers over gRPC, and holds for both. What only
some upstream refuses is left to that upstream.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite
from typing import Final

from trunkline.errors import GatewayError
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1.chat_pb2 import Chat

__all__ = ["check_chat", "check_labels"]

MAX_MODEL_LENGTH: Final = 256
MAX_LABELS: Final = 16
MAX_LABEL_KEY_LENGTH: Final = 64
MAX_LABEL_VALUE_LENGTH: Final = 256
MAX_CHOICES: Final = 128


def invalid(message: str, param: str) -> GatewayError:
    """Return the error that blames one member of the request."""
    return GatewayError(error_reason_pb2.ERROR_REASON_INVALID_REQUEST, message, param=param)


def check_model_name(name: str, param: str = "model") -> None:
    """Raise INVALID_REQUEST for what cannot be a model's name."""
    if not name:
        raise invalid("a model is required", param)
    if len(name) > MAX_MODEL_LENGTH or not name.isprintable():
        raise invalid(f"a model's name has at most {MAX_MODEL_LENGTH} printable characters", param)


def check_chat(chat: Chat) -> None:
    """Raise INVALID_REQUEST, with the member at fault, for a chat that no provider could answer."""
    check_model_name(chat.model)
    if not chat.messages:
        raise invalid("at least one message is required", "messages")
    for number, message in enumerate(chat.messages):
        if not message.role:
            raise invalid("a role is required", f"messages[{number}].role")
        for part_number, part in enumerate(message.parts):
            if part.WhichOneof("part") is None:
                raise invalid("a part holds nothing", f"messages[{number}].parts[{part_number}]")
    for number, tool in enumerate(chat.tools):
        if tool.WhichOneof("tool") is None or (tool.HasField("function") and not tool.function.name):
            raise invalid("a tool needs a name", f"tools[{number}]")
    _check_numbers(chat)


def _check_numbers(chat: Chat) -> None:
    # An absent number reads as 0, which passes; only n has to tell the two apart.
    if chat.max_completion_tokens < 0:
        raise invalid("must not be negative", "max_completion_tokens")
    if chat.max_tokens < 0:
        raise invalid("must not be negative", "max_tokens")
    if chat.reasoning_budget_tokens < 0:
        raise invalid("must not be negative", "reasoning_budget_tokens")
    if chat.top_logprobs < 0:
        raise invalid("must not be negative", "top_logprobs")
    if chat.HasField("n") and not 1 <= chat.n <= MAX_CHOICES:
        raise invalid(f"must be 1 to {MAX_CHOICES}", "n")
    if not 0 <= chat.temperature < inf:
        raise invalid("must be a number that is not negative", "temperature")
    if not 0 <= chat.top_p < inf:
        raise invalid("must be a number that is not negative", "top_p")
    if not isfinite(chat.frequency_penalty):
        raise invalid("must be a finite number", "frequency_penalty")
    if not isfinite(chat.presence_penalty):
        raise invalid("must be a finite number", "presence_penalty")


def check_labels(labels: Mapping[str, str]) -> None:
    """Raise INVALID_REQUEST for labels beyond the contract's limits, or with characters that no ledger should hold."""
    if len(labels) > MAX_LABELS:
        raise invalid(f"at most {MAX_LABELS} labels are allowed", "labels")
    for key, value in labels.items():
        if not 0 < len(key) <= MAX_LABEL_KEY_LENGTH or not key.isprintable():
            raise invalid(f"a label's key has 1 to {MAX_LABEL_KEY_LENGTH} printable characters", "labels")
        if len(value) > MAX_LABEL_VALUE_LENGTH or not value.isprintable():
            raise invalid(f"a label's value has at most {MAX_LABEL_VALUE_LENGTH} printable characters", f"labels.{key}")
