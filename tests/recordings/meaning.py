"""What a chat answer says: read from recorded upstream bytes and from the gateway's answer, by two plain readers.

Neither is the gateway's. `meaning_of_recording` knows the dialects of the recorded providers, `meaning_of_answer` only
OpenAI's own shape: what another provider said differently must arrive in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.providers.recordings import Recording

__all__ = ["Choice", "Meaning", "meaning_of_answer", "meaning_of_recording", "recorded_events"]

# Words for the end of an answer that are not OpenAI's.
_FINISH = {"eos": "stop", "": None}


@dataclass(slots=True, kw_only=True)
class Choice:
    """One of the answers."""

    text: str = ""
    refusal: str = ""
    reasoning: str = ""
    audio: str = ""
    """Its base64."""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """Id, name, arguments; the id is "" where there was none."""
    sealed: list[str] = field(default_factory=list)
    """Signatures and encrypted reasoning in `reasoning_details`, which the client has to send back."""
    logprobs: int = 0
    """How many tokens have log probabilities."""
    finish_reason: str | None = None


@dataclass(slots=True, kw_only=True)
class Meaning:
    """The whole answer."""

    choices: dict[int, Choice] = field(default_factory=dict)
    usage: dict[str, int] = field(default_factory=dict)
    """By OpenAI's names, details beside the totals; only what is not zero."""
    error: Any = None
    is_done: bool = False
    """Whether the stream said `[DONE]`."""


def recorded_events(recording: Recording) -> Iterator[Any]:
    """Yield the JSON documents of a recorded answer: the body, or each `data:` line."""
    if "body_json" in recording.response:
        yield recording.response["body_json"]
        return
    for line in recording.response["body_text"].splitlines():
        if line.startswith("data:") and line[5:].strip() not in ("", "[DONE]"):
            yield json.loads(line[5:])


def meaning_of_recording(recording: Recording) -> Meaning:
    """Return what a recorded chat completion says, as OpenAI would have put it."""
    meaning = Meaning()
    calls: dict[int, dict[int, list[str]]] = {}
    streamed = "body_json" not in recording.response
    for chunk in recorded_events(recording):
        meaning.error = meaning.error or chunk.get("error")
        usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage")
        if usage:
            meaning.usage = _normal_usage(usage)
        for position, raw in enumerate(chunk.get("choices") or []):
            index = raw.get("index", position)
            choice = meaning.choices.setdefault(index, Choice())
            said = raw.get("delta" if streamed else "message") or {}
            _add_content(choice, said)
            choice.logprobs += len((raw.get("logprobs") or {}).get("content") or ())
            word = raw.get("finish_reason")
            choice.finish_reason = _FINISH.get(word, word) or choice.finish_reason
            known = calls.setdefault(index, {})
            for call in said.get("tool_calls") or []:
                number = call.get("index") if streamed else None
                # Some streams number each of several calls 0, or none; a new id is a new call.
                if number is None or (call.get("id") and number in known and known[number][0] != call["id"]):
                    number = len(known)
                _add_call(known.setdefault(number, ["", "", ""]), call)
    for index, known in calls.items():
        meaning.choices[index].calls = [(call_id, name, text or "{}") for call_id, name, text in known.values()]
    return meaning


def meaning_of_answer(content_type: str, body: bytes) -> Meaning:
    """Return what the gateway's answer says. Fails for what is not OpenAI's shape."""
    if content_type.startswith("application/json"):
        return _meaning_of_completion(json.loads(body))
    assert content_type.startswith("text/event-stream")
    meaning = Meaning()
    calls: dict[int, dict[int, list[str]]] = {}
    for frame in body.decode().split("\n\n"):
        if not frame or frame.startswith(":"):
            continue
        assert frame.startswith("data: "), frame
        assert not meaning.is_done
        if frame == "data: [DONE]":
            meaning.is_done = True
            continue
        chunk = json.loads(frame.removeprefix("data: "))
        if "error" in chunk:
            meaning.error = chunk["error"]
            continue
        assert chunk["object"] == "chat.completion.chunk"
        if chunk.get("usage"):
            assert not meaning.usage
            assert chunk["choices"] == []
            meaning.usage = _plain_usage(chunk["usage"])
        for raw in chunk["choices"]:
            choice = meaning.choices.setdefault(raw["index"], Choice())
            assert choice.finish_reason is None
            choice.finish_reason = raw["finish_reason"]
            _add_answer(choice, raw["delta"], raw.get("logprobs"))
            for call in raw["delta"].get("tool_calls", ()):
                known = calls.setdefault(raw["index"], {})
                assert call["index"] <= len(known)
                _add_call(known.setdefault(call["index"], ["", "", ""]), call)
    for index, known in calls.items():
        meaning.choices[index].calls = [(call_id, name, text) for call_id, name, text in known.values()]
    return meaning


def _meaning_of_completion(document: Any) -> Meaning:
    meaning = Meaning(error=document.get("error"))
    if meaning.error is not None:
        return meaning
    assert document["object"] == "chat.completion"
    meaning.usage = _plain_usage(document.get("usage") or {})
    for raw in document["choices"]:
        choice = meaning.choices[raw["index"]] = Choice(finish_reason=raw["finish_reason"])
        _add_answer(choice, raw["message"], raw["logprobs"])
        for call in raw["message"].get("tool_calls", ()):
            pieces = ["", "", ""]
            _add_call(pieces, call)
            choice.calls.append((pieces[0], pieces[1], pieces[2]))
    return meaning


def _add_answer(choice: Choice, said: dict[str, Any], logprobs: dict[str, Any] | None) -> None:
    choice.text += said.get("content") or ""
    choice.refusal += said.get("refusal") or ""
    choice.reasoning += said.get("reasoning_content") or ""
    choice.audio += (said.get("audio") or {}).get("data", "")
    choice.logprobs += len((logprobs or {}).get("content") or ())
    _add_sealed(choice, said)


def _add_sealed(choice: Choice, said: dict[str, Any]) -> None:
    for block in said.get("reasoning_details") or ():
        choice.sealed += [block[name] for name in ("signature", "data") if block.get(name)]


def _add_call(pieces: list[str], call: dict[str, Any]) -> None:
    inner = call.get("function") or call.get("custom") or {}
    pieces[0] = call.get("id") or pieces[0]
    pieces[1] += inner.get("name") or ""
    text = inner.get("arguments") or inner.get("input") or ""
    pieces[2] += text if isinstance(text, str) else json.dumps(text, separators=(",", ":"))


def _add_content(choice: Choice, said: dict[str, Any]) -> None:
    content = said.get("content")
    if isinstance(content, dict):  # Cloudflare writes JSON as JSON
        content = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    elif isinstance(content, list):  # Mistral, when the model thinks
        for piece in content:
            if piece["type"] == "thinking":
                choice.reasoning += "".join(inner.get("text", "") for inner in piece["thinking"])
        content = "".join(piece["text"] for piece in content if piece["type"] == "text")
    choice.text += content or ""
    choice.refusal += said.get("refusal") or ""
    choice.audio += (said.get("audio") or {}).get("data", "")
    _add_sealed(choice, said)
    strings = [said[name] for name in ("reasoning_content", "reasoning") if isinstance(said.get(name), str)]
    details = [entry.get("text") or entry.get("summary") or "" for entry in said.get("reasoning_details") or ()]
    # A provider that writes both writes the same in both.
    choice.reasoning += next(filter(None, [*strings, "".join(details)]), "")


def _normal_usage(usage: dict[str, Any]) -> dict[str, int]:
    """Return recorded counts by OpenAI's names, where prompt and completion hold everything."""
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    of_prompt, of_completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    cached = usage.get("prompt_cache_hit_tokens") or usage.get("cached_tokens") or usage.get("cache_read_input_tokens")
    written = of_prompt.get("cache_write_tokens") or usage.get("cache_creation_input_tokens")
    reasoning = of_completion.get("reasoning_tokens") or usage.get("reasoning_tokens") or 0
    total = usage.get("total_tokens") or prompt + completion
    surplus = total - prompt - completion
    if surplus and surplus == reasoning:  # xAI counts reasoning beside the completion
        completion += surplus
    elif surplus and surplus == of_prompt.get("audio_tokens"):  # Mistral counts sound beside the prompt
        prompt += surplus
    counts = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "cached_tokens": of_prompt.get("cached_tokens") or cached,
        "cache_write_tokens": written,
        "reasoning_tokens": reasoning,
    }
    return {name: count for name, count in counts.items() if count}


def _plain_usage(usage: dict[str, Any]) -> dict[str, int]:
    of_prompt, of_completion = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    counts = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens") if usage}
    counts |= {name: of_prompt.get(name) for name in ("cached_tokens", "cache_write_tokens")}
    counts["reasoning_tokens"] = of_completion.get("reasoning_tokens")
    return {name: count for name, count in counts.items() if count}
