"""What upstreams' error codes, types and statuses mean, as data.

The one rule: a specific word decides before the HTTP status, the status before a vague word. A piece of a message is a
row only where a recorded body has nothing better.
"""

from __future__ import annotations

from typing import Final

from trunkline.errors import Reason
from trunkline.errors.v1 import error_reason_pb2 as reasons

__all__ = ["SPECIFIC_WORDS", "TELLING_MESSAGES", "VAGUE_WORDS", "reason_of_status"]

_INVALID: Final = reasons.ERROR_REASON_INVALID_REQUEST
_CONTEXT: Final = reasons.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED
_BLOCKED: Final = reasons.ERROR_REASON_CONTENT_BLOCKED
_MODEL: Final = reasons.ERROR_REASON_MODEL_NOT_FOUND
_LIMITED: Final = reasons.ERROR_REASON_UPSTREAM_RATE_LIMITED
_OVERLOADED: Final = reasons.ERROR_REASON_UPSTREAM_OVERLOADED
_TIMEOUT: Final = reasons.ERROR_REASON_UPSTREAM_TIMEOUT
_CREDENTIALS: Final = reasons.ERROR_REASON_UPSTREAM_REJECTED_CREDENTIALS
_TOO_LARGE: Final = reasons.ERROR_REASON_REQUEST_TOO_LARGE
_UNSUPPORTED: Final = reasons.ERROR_REASON_UNSUPPORTED_FEATURE

# Words of `code` or `type`, in lower case.
SPECIFIC_WORDS: Final[dict[str, Reason.ValueType]] = {
    "context_length_exceeded": _CONTEXT,
    "context_window_exceeded": _CONTEXT,
    "exceed_context_size_error": _CONTEXT,
    "model_max_prompt_tokens_exceeded": _CONTEXT,
    "content_filter": _BLOCKED,
    "content_policy_violation": _BLOCKED,
    "contentfilter": _BLOCKED,
    "data_inspection_failed": _BLOCKED,
    "moderation_blocked": _BLOCKED,
    "responsibleaipolicyviolation": _BLOCKED,
    "deploymentnotfound": _MODEL,
    "invalid_model": _MODEL,
    "model_decommissioned": _MODEL,
    "model_not_available": _MODEL,
    "model_not_found": _MODEL,
    "modelnotfound": _MODEL,
    "unknown_model": _MODEL,
    "billing_hard_limit_reached": _LIMITED,
    "insufficient_balance": _LIMITED,
    "insufficient_quota": _LIMITED,
    "quota_exceeded": _LIMITED,
    "rate_limit_error": _LIMITED,
    "rate_limit_exceeded": _LIMITED,
    "rate_limited": _LIMITED,
    "ratelimiterror": _LIMITED,
    "requests": _LIMITED,
    "tokens": _LIMITED,
    "too_many_requests": _LIMITED,
    "authentication_error": _CREDENTIALS,
    "account_deactivated": _CREDENTIALS,
    "billing_not_active": _CREDENTIALS,
    "invalid_api_key": _CREDENTIALS,
    "invalid_authentication_error": _CREDENTIALS,
    "invalid_organization": _CREDENTIALS,
    "permission_denied": _CREDENTIALS,
    "permission_error": _CREDENTIALS,
    "unauthorized": _CREDENTIALS,
    "capacity_exceeded": _OVERLOADED,
    "engine_overloaded": _OVERLOADED,
    "engine_overloaded_error": _OVERLOADED,
    "model_overloaded": _OVERLOADED,
    "overloaded": _OVERLOADED,
    "overloaded_error": _OVERLOADED,
    "service_unavailable": _OVERLOADED,
    "slow_down": _OVERLOADED,
    "deadline_exceeded": _TIMEOUT,
    "request_timeout": _TIMEOUT,
    "timeout": _TIMEOUT,
    "timeout_error": _TIMEOUT,
    "request_too_large": _TOO_LARGE,
    "string_above_max_length": _INVALID,
    "tool_use_failed": _INVALID,
    "unsupported_feature": _UNSUPPORTED,
}

VAGUE_WORDS: Final[dict[str, Reason.ValueType]] = {
    "api_error": _OVERLOADED,
    "bad_request": _INVALID,
    "badrequesterror": _INVALID,
    "internal_error": _OVERLOADED,
    "internal_server_error": _OVERLOADED,
    "internalservererror": _OVERLOADED,
    "invalid_argument": _INVALID,
    "invalid_request": _INVALID,
    "invalid_request_error": _INVALID,
    "invalid_value": _INVALID,
    "not_found_error": _MODEL,
    "notfounderror": _MODEL,
    "server_error": _OVERLOADED,
    "upstream_error": _OVERLOADED,
}

# Pieces of messages, in lower case, that decide where neither code nor type does.
TELLING_MESSAGES: Final[tuple[tuple[str, Reason.ValueType], ...]] = (
    ("maximum context length", _CONTEXT),  # vLLM and DeepSeek: code 400, no word
    ("is not a valid model id", _MODEL),  # OpenRouter: code 400, no word
)

_STATUSES: Final[dict[int, Reason.ValueType]] = {
    401: _CREDENTIALS,
    402: _LIMITED,  # the gateway's own account is out of credit: another deployment may have some
    403: _CREDENTIALS,
    404: reasons.ERROR_REASON_RESOURCE_NOT_FOUND,
    408: _TIMEOUT,
    409: _LIMITED,
    413: _TOO_LARGE,
    425: _LIMITED,
    429: _LIMITED,
    498: _LIMITED,  # Groq's flex capacity
    504: _TIMEOUT,
    524: _TIMEOUT,
    529: _OVERLOADED,
}


def reason_of_status(status: int) -> Reason.ValueType:
    """Return what a status above 399 means by itself; UPSTREAM_MALFORMED_REPLY for one that is no error."""
    if status in _STATUSES:
        return _STATUSES[status]
    if 400 <= status < 500:
        return _INVALID
    return _OVERLOADED if status >= 500 else reasons.ERROR_REASON_UPSTREAM_MALFORMED_REPLY
