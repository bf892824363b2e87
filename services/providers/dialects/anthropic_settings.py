"""The settings of a request beside its conversation and tools: sampling, stops, tier, identity, and what has no place.

Tuning that the API or the model does not take is left out with a warning; a feature it does not have is refused.
"""

from __future__ import annotations

from typing import Any, Final

from services.providers.dialects.anthropic_models import ModelFacts
from services.providers.dialects.anthropic_notes import RenderNotes
from services.providers.dialects.anthropic_wire import Members
from trunkline.inference.v1.chat_pb2 import Chat

__all__ = ["NATIVE_MEMBERS", "note_native_betas", "refuse_unsupported", "render_sampling", "render_settings"]

NATIVE_MEMBERS: Final = frozenset(
    {"top_k", "thinking", "container", "context_management", "mcp_servers", "cache_control", "output_config"}
    | {"output_format", "inference_geo", "speed", "diagnostics", "fallbacks", "fallback_credit_token", "compaction"}
    | {"betas", "anthropic_beta"}
)
"""Members of the API itself that a caller may send beside OpenAI's; `betas` and `anthropic_beta` become the header."""

_TIERS: Final = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_NO_PLACE: Final = (
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "logprobs",
    "top_logprobs",
    "prompt_cache_key",
    "verbosity",
)
_NO_SUCH_SETTING: Final = "the Messages API has no such setting; left out"
_BETA_OF_MEMBER: Final = {
    "context_management": "context-management-2025-06-27",
    "output_format": "structured-outputs-2025-11-13",
    "speed": "fast-mode-2026-02-01",
    "fallbacks": "server-side-fallback-2026-07-01",
    "fallback_credit_token": "fallback-credit-2026-07-01",
    "diagnostics": "cache-diagnosis-2026-04-07",
    "compaction": "compact-2026-01-12",
}
# Features that show only inside a member: its name, a piece of its JSON, the beta.
_BETA_OF_CONTENT: Final = (
    ("container", b'"skills"', "skills-2025-10-02"),
    ("output_config", b'"task_budget"', "task-budgets-2026-03-13"),
    ("thinking", b'"block_binding"', "thinking-binding-controls-2026-08-01"),
    ("context_management", b'"compact_', "compact-2026-01-12"),
)


def refuse_unsupported(chat: Chat, notes: RenderNotes) -> None:
    """Raise UNSUPPORTED_FEATURE for what the API cannot do at all."""
    if chat.n > 1:
        notes.refuse("n", "the Messages API gives one answer a request", param="n")
    for modality in chat.modalities:
        if modality != "text":
            notes.refuse(f"{modality}_output", f"the Messages API answers in text, not {modality}", param="modalities")
    if chat.HasField("audio_output") and "audio" in chat.modalities:
        notes.refuse("audio_output", "the Messages API answers in text", param="audio")
    if chat.response_format.WhichOneof("format") == "opaque_json":
        notes.refuse("response_format", "the Messages API has no such form of answer", param="response_format")


def render_sampling(
    chat: Chat, facts: ModelFacts, native: Members, notes: RenderNotes, *, is_thinking: bool
) -> dict[str, Any]:
    """Return temperature, top_p and top_k as far as the model takes them; left out where they say the default."""
    settings: dict[str, Any] = {}
    if chat.HasField("temperature"):
        settings["temperature"] = min(1.0, max(0.0, chat.temperature))
        if settings["temperature"] != chat.temperature:
            notes.warn("temperature", f"brought into the API's range: {settings['temperature']}")
    if chat.HasField("top_p"):
        settings["top_p"] = chat.top_p
    if "top_k" in native:
        settings["top_k"] = native["top_k"]
    if facts.sampling == "none":
        _leave_out(settings, ("temperature", "top_p", "top_k"), "this model does not take it", notes)
        return settings
    if is_thinking:
        if settings.get("temperature") != 1.0:
            _leave_out(settings, ("temperature",), "only 1 goes together with thinking", notes)
        if settings.get("top_p", 1.0) < 0.95:
            _leave_out(settings, ("top_p",), "only 0.95 to 1 goes together with thinking", notes)
        _leave_out(settings, ("top_k",), "does not go together with thinking", notes)
    if facts.sampling == "one" and settings.keys() >= {"temperature", "top_p"}:
        keep_top_p = settings["temperature"] == 1.0 and settings["top_p"] != 1.0
        other = "temperature" if keep_top_p else "top_p"
        _leave_out(settings, (other,), "this model takes either temperature or top_p", notes)
    return settings


def _leave_out(settings: dict[str, Any], names: tuple[str, ...], why: str, notes: RenderNotes) -> None:
    for name in names:
        if name in settings and settings.pop(name) != 1.0:  # 1 is the default of temperature and top_p: nothing is lost
            notes.warn(name, f"{why}; left out")


def render_settings(chat: Chat, notes: RenderNotes) -> dict[str, Any]:
    """Return stop sequences, metadata and service tier, and say what of the rest was left out."""
    settings: dict[str, Any] = {}
    stops = [stop for stop in chat.stop if stop.strip()]
    if len(stops) < len(chat.stop):
        notes.warn("stop", "stop texts of blanks alone, which the API refuses; left out")
    if stops:
        settings["stop_sequences"] = stops
    user_id = _user_id(chat, notes)
    if user_id:
        settings["metadata"] = {"user_id": user_id}
    if chat.HasField("service_tier"):
        tier = _TIERS.get(chat.service_tier)
        if tier is None:
            notes.warn("service_tier", f"the Messages API has no tier {chat.service_tier!r}; left out")
        else:
            settings["service_tier"] = tier
    for name in _NO_PLACE:
        if chat.HasField(name) and (getattr(chat, name) or name == "seed"):  # zero and false ask for nothing
            notes.warn(name, _NO_SUCH_SETTING)
    if chat.logit_bias_json:
        notes.warn("logit_bias", _NO_SUCH_SETTING)
    if chat.prediction_json:
        notes.warn("prediction", _NO_SUCH_SETTING)
    if chat.store:
        notes.warn("store", _NO_SUCH_SETTING)
    return settings


def _user_id(chat: Chat, notes: RenderNotes) -> str:
    """Return the end user's opaque id, from the members that may hold it, the most specific first."""
    labels = {entry.key: entry.value for entry in chat.metadata}
    if labels.keys() - {"user_id"}:
        notes.warn("metadata", "the Messages API takes only user_id; the other labels were left out")
    return chat.safety_identifier or labels.get("user_id", "") or chat.user


def note_native_betas(native: Members, notes: RenderNotes) -> None:
    """Ask for the beta features that the caller's native members use."""
    for name in native:
        if name in _BETA_OF_MEMBER and not (name == "speed" and bytes(native[name]) != b'"fast"'):
            notes.beta(_BETA_OF_MEMBER[name])
    for name, piece, beta in _BETA_OF_CONTENT:
        if name in native and piece in bytes(native[name]):
            notes.beta(beta)
