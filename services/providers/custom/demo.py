"""The built-in provider: offline, free and deterministic, so that every feature can be tried without any key.

Its one model, `echo`, answers by these rules, the first that fits:

- the user says `error: REASON` (a name of errors.v1, as UPSTREAM_OVERLOADED): the call fails with it;
  `error after 3: REASON` fails after three words of the answer;
- the user says `refuse: ...`: a refusal;
- the last message is a tool's result: a text that quotes it;
- tools are given and `tool_choice` is not "none": a call of the first one, of the one that is demanded, or of all when
  the user says "all" or "parallel"; the arguments are a valid instance of the tool's schema;
- a JSON form is asked for: a valid instance of its schema;
- else the user's own words.

A token is a word with the blanks before it. Usage, stop texts, bounds, log probabilities, reasoning and n follow from
that. There is no clock here: the steps of a stream are paced by whoever reads them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from services.providers.custom.schema_instance import schema_instance
from trunkline.errors import GatewayError, Reason
from trunkline.errors.v1 import error_reason_pb2
from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1 import chat_pb2 as pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent
from trunkline.inference.v1.chat_pb2 import Chat, ChatReply
from trunkline.inference.v1.usage_pb2 import TokenUsage
from trunkline.reply import fold

__all__ = ["PROVIDER", "DemoProvider"]

_TOKEN: Final = re.compile(r"\s*\S+|\s+\Z")
_ERROR: Final = re.compile(r"\Aerror(?: after (\d{1,4}))?:\s*(\w+)", re.IGNORECASE)
_ALL: Final = re.compile(r"\b(?:all|both|parallel)\b", re.IGNORECASE)
_REFUSE: Final = "refuse:"
_LOGPROB: Final = -0.125
_MAX_CHOICES: Final = 128
_RESULTS: Final = frozenset({pb.ROLE_TOOL, pb.ROLE_FUNCTION})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What one choice will say, before bounds and stops."""

    text: str = ""
    is_refusal: bool = False
    calls: tuple[pb.ToolCall, ...] = ()
    fails_after: int | None = None
    """After how many words it fails, None when it does not."""
    failure: GatewayError | None = None


class DemoProvider:
    """The provider; pure, its methods may be called from anywhere."""

    __slots__ = ()

    name: str = "demo"
    models: tuple[str, ...] = ("echo",)
    capabilities: frozenset[str] = frozenset(
        {"completion", "streaming", "tools", "json_schema", "vision", "audio_input", "file_input", "reasoning"}
        | {"count_tokens", "list_models"}
    )

    def list_models(self) -> list[str]:
        """Return the names of its models."""
        return list(self.models)

    def count_tokens(self, chat: Chat, model: str) -> int:
        """Return the chat's words. Raises MODEL_NOT_FOUND."""
        self._check_model(model)
        return _input_tokens(chat)

    def complete_chat(self, chat: Chat, model: str) -> ChatReply:
        """Return the answer in one piece: what folding the stream gives. Raises GatewayError."""
        return fold(event for step in self.stream_chat(chat, model) for event in step)

    def stream_chat(self, chat: Chat, model: str) -> Iterator[list[ChatEvent]]:
        """Yield the answer's events, a step for each word. Raises GatewayError."""
        self._check_model(model)
        if chat.n > _MAX_CHOICES:
            raise _invalid(f"n is more than {_MAX_CHOICES}", "n")
        answer = _plan(chat)
        if answer.failure is not None and answer.fails_after is None:
            raise answer.failure
        return _stream(chat, model, answer)

    def _check_model(self, model: str) -> None:
        if model not in self.models:
            raise GatewayError(
                error_reason_pb2.ERROR_REASON_MODEL_NOT_FOUND,
                f"The demo provider has no model {model!r}, only {', '.join(self.models)}.",
                metadata={"model": model, "provider": self.name},
            )


PROVIDER: Final = DemoProvider()


def _plan(chat: Chat) -> _Answer:
    """Return what to answer."""
    said = _last_words(chat)
    failing = _ERROR.match(said)
    if failing is not None:
        failure = _failure(failing[2].upper())
        if failing[1] is None:
            return _Answer(failure=failure)
        return _Answer(text=said, failure=failure, fails_after=int(failing[1]))
    if said.lower().startswith(_REFUSE):
        return _Answer(text=f"I cannot help with that: {said[len(_REFUSE) :].strip()}", is_refusal=True)
    last = chat.messages[-1] if chat.messages else None
    if last is not None and last.role in _RESULTS:
        return _Answer(text=_quote_results(chat))
    tools = _tools_to_call(chat, said)
    if tools:
        return _Answer(calls=tuple(_call(chat, tool, number, said) for number, tool in enumerate(tools)))
    form = chat.response_format.WhichOneof("format")
    if form == "json_schema":
        schema = _decode(chat.response_format.json_schema.schema_json, "response_format.json_schema.schema")
        return _Answer(text=_encode(schema_instance(schema)))
    if form == "json_object":
        return _Answer(text=_encode({"echo": said}))
    return _Answer(text=said or "Hello from the demo provider.")


def _failure(name: str) -> GatewayError:
    """Return the error a user asked for; one that does not exist is the user's."""
    try:
        reason: Reason.ValueType = Reason.Value(f"ERROR_REASON_{name}")
    except ValueError:
        return GatewayError(
            error_reason_pb2.ERROR_REASON_INVALID_REQUEST, f"There is no reason {name}.", param="messages"
        )
    limited = {error_reason_pb2.ERROR_REASON_UPSTREAM_RATE_LIMITED, error_reason_pb2.ERROR_REASON_CALLER_RATE_LIMITED}
    message = f"The demo provider was asked to fail with {name}."
    return GatewayError(reason, message, retry_after=2.0 if reason in limited else None)


def _words_of(message: pb.Message) -> str:
    """Return a message's text, with a mark for each piece that is none."""
    words = []
    for part in message.parts:
        kind = part.WhichOneof("part")
        if kind in {"text", "refusal", "reasoning"}:
            words.append(getattr(part, kind).text)
        elif kind == "tool_call":
            words.append(f"{part.tool_call.name} {part.tool_call.arguments_json}")
        elif kind is not None:
            words.append(f"[{kind}]")
    return " ".join(word for word in words if word)


def _last_words(chat: Chat) -> str:
    said = (_words_of(message) for message in reversed(chat.messages) if message.role == pb.ROLE_USER)
    return next(said, "")


def _quote_results(chat: Chat) -> str:
    results = []
    for message in reversed(chat.messages):
        if message.role not in _RESULTS:
            break
        verb = "failed with" if message.tool_failed else "answered"
        results.append(f'The tool {verb}: "{_words_of(message)}".')
    return " ".join(reversed(results))


def _tools_to_call(chat: Chat, said: str) -> list[pb.Tool]:
    """Return the tools to call, none when the answer is in words."""
    callable_tools = [tool for tool in chat.tools if tool.WhichOneof("tool") != "opaque_json"]
    choice = chat.tool_choice
    if choice.function_name:
        named = [tool for tool in callable_tools if _name_of(tool) == choice.function_name]
        if not named:
            raise _invalid(f"tool_choice names {choice.function_name!r}, which is no tool", "tool_choice")
        return named[:1]
    if choice.mode == pb.TOOL_CHOICE_MODE_NONE:
        return []
    if choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED and not callable_tools:
        raise _invalid("tool_choice demands a call, but there is no tool to call", "tool_choice")
    may_call_all = not chat.HasField("parallel_tool_calls") or chat.parallel_tool_calls
    return callable_tools if may_call_all and _ALL.search(said) else callable_tools[:1]


def _name_of(tool: pb.Tool) -> str:
    if tool.WhichOneof("tool") == "function":
        return tool.function.name
    name = _decode(tool.custom_json, "tools").get("name")
    return name if isinstance(name, str) else ""


def _call(chat: Chat, tool: pb.Tool, number: int, said: str) -> pb.ToolCall:
    call_id = f"call_{_digest(chat)[:16]}{number}"
    if tool.WhichOneof("tool") == "custom_json":
        return pb.ToolCall(id=call_id, name=_name_of(tool), arguments_json=said, kind="custom")
    function = tool.function
    schema = _decode(function.parameters_json or '{"type":"object"}', f"tools.{function.name}.parameters")
    arguments = schema_instance({"type": "object", **schema})
    is_legacy = tool.is_legacy_function
    return pb.ToolCall(
        id="" if is_legacy else call_id,
        name=function.name,
        arguments_json=_encode(arguments if isinstance(arguments, dict) else {}),
        kind="function",
        is_legacy_function_call=is_legacy,
    )


def _stream(chat: Chat, model: str, answer: _Answer) -> Iterator[list[ChatEvent]]:
    started = events_pb.Started(id=f"demo-{_digest(chat)[:24]}", model=model, system_fingerprint="demo")
    step = [ChatEvent(started=started)]
    usage = TokenUsage(input_tokens=_input_tokens(chat), output_tokens=0, input_cached_tokens=0)
    usage.output_reasoning_tokens = 0
    for index in range(max(1, chat.n)):
        for events in _stream_choice(chat, index, answer, usage):
            yield step + events
            step = []
    yield [ChatEvent(usage_reported=events_pb.UsageReported(usage=usage))]


def _stream_choice(chat: Chat, choice: int, answer: _Answer, usage: TokenUsage) -> Iterator[list[ChatEvent]]:
    """Yield one choice, adding to the usage what it took."""
    left = _bound(chat)
    part = 0
    if _thinks(chat):
        thoughts = _tokens(f"The user wrote {len(_tokens(_last_words(chat)))} words.")[:left]
        begin = pb.Part(reasoning=pb.ReasoningPart())
        deltas = [events_pb.ReasoningDelta(choice=choice, part=part, text=token) for token in thoughts]
        deltas.append(events_pb.ReasoningDelta(choice=choice, part=part, signature="demo"))
        yield from _stream_part(choice, part, begin, [ChatEvent(reasoning_delta=delta) for delta in deltas])
        left -= len(thoughts)
        part += 1
        usage.output_tokens += len(thoughts)
        usage.output_reasoning_tokens += len(thoughts)
    finish = events_pb.ChoiceFinished(choice=choice, finish_reason=pb.FINISH_REASON_STOP)
    if answer.calls:
        finish.finish_reason = _finish_of(answer.calls)
        for call in answer.calls:
            yield from _stream_call(choice, part, call)
            part += 1
            usage.output_tokens += len(_tokens(call.arguments_json)) + 1
    else:
        tokens = _said(chat, answer, left, finish)
        usage.output_tokens += len(tokens)
        begin = pb.Part(refusal=pb.RefusalPart()) if answer.is_refusal else pb.Part(text=pb.TextPart())
        deltas_of_text = [_text_event(chat, choice, part, token, answer) for token in tokens]
        if answer.fails_after is not None:
            yield from _fail(choice, part, begin, deltas_of_text[: answer.fails_after], answer)
        yield from _stream_part(choice, part, begin, deltas_of_text)
    finish.raw_finish_reason = pb.FinishReason.Name(finish.finish_reason).removeprefix("FINISH_REASON_").lower()
    yield [ChatEvent(choice_finished=finish)]


def _fail(
    choice: int, part: int, begin: pb.Part, deltas: Sequence[ChatEvent], answer: _Answer
) -> Iterator[list[ChatEvent]]:
    yield [ChatEvent(part_started=events_pb.PartStarted(choice=choice, part=part, begin=begin))]
    for delta in deltas:
        yield [delta]
    if answer.failure is not None:
        raise answer.failure


def _stream_part(choice: int, part: int, begin: pb.Part, deltas: Sequence[ChatEvent]) -> Iterator[list[ChatEvent]]:
    yield [ChatEvent(part_started=events_pb.PartStarted(choice=choice, part=part, begin=begin))]
    for delta in deltas:
        yield [delta]
    yield [ChatEvent(part_finished=events_pb.PartFinished(choice=choice, part=part))]


def _stream_call(choice: int, part: int, call: pb.ToolCall) -> Iterator[list[ChatEvent]]:
    begin = pb.Part(tool_call=call)
    begin.tool_call.arguments_json = ""
    pieces = re.findall(r"[^,:]*[,:]?", call.arguments_json)
    deltas = [
        ChatEvent(tool_call_delta=events_pb.ToolCallDelta(choice=choice, part=part, arguments_json=piece))
        for piece in pieces
        if piece
    ]
    return _stream_part(choice, part, begin, deltas)


def _text_event(chat: Chat, choice: int, part: int, token: str, answer: _Answer) -> ChatEvent:
    logprobs = [_logprob(chat, token)] if chat.logprobs else []
    if answer.is_refusal:
        return ChatEvent(refusal_delta=events_pb.RefusalDelta(choice=choice, part=part, text=token, logprobs=logprobs))
    return ChatEvent(text_delta=events_pb.TextDelta(choice=choice, part=part, text=token, logprobs=logprobs))


def _logprob(chat: Chat, token: str) -> pb.TokenLogprob:
    """Return the token's log probability: always the same, its alternatives half as likely each time."""
    top = [
        pb.TopLogprob(token=other, logprob=_LOGPROB - rank, raw_bytes=other.encode())
        for rank, other in enumerate([token, *(f"{token}~{number}" for number in range(1, chat.top_logprobs))])
    ]
    wanted = top[: chat.top_logprobs] if chat.top_logprobs > 0 else []
    return pb.TokenLogprob(token=token, logprob=_LOGPROB, raw_bytes=token.encode(), top_logprobs=wanted)


def _said(chat: Chat, answer: _Answer, left: int, finish: events_pb.ChoiceFinished) -> list[str]:
    """Return the answer's tokens within stops and bound, and note in `finish` which of them cut it."""
    text = answer.text
    stops = [(text.find(stop), stop) for stop in chat.stop if stop and stop in text]
    if stops:
        place, stop = min(stops)
        text, finish.stop_sequence = text[:place], stop
    tokens = _tokens(text)
    if len(tokens) > left:
        tokens = tokens[: max(0, left)]
        finish.finish_reason = pb.FINISH_REASON_LENGTH
        finish.ClearField("stop_sequence")
    return tokens


def _finish_of(calls: Sequence[pb.ToolCall]) -> pb.FinishReason.ValueType:
    is_legacy = any(call.is_legacy_function_call for call in calls)
    return pb.FINISH_REASON_FUNCTION_CALL if is_legacy else pb.FINISH_REASON_TOOL_CALLS


def _thinks(chat: Chat) -> bool:
    if chat.HasField("reasoning_effort"):
        return chat.reasoning_effort != "none"
    return chat.reasoning_budget_tokens > 0


def _bound(chat: Chat) -> int:
    bounds = [getattr(chat, name) for name in ("max_completion_tokens", "max_tokens") if chat.HasField(name)]
    return max(0, min(bounds)) if bounds else 2**31


def _input_tokens(chat: Chat) -> int:
    return sum(len(_tokens(_words_of(message))) for message in chat.messages) + len(chat.tools)


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _digest(chat: Chat) -> str:
    return hashlib.sha256(chat.SerializeToString(deterministic=True)).hexdigest()


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _decode(text: str, param: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _invalid(f"{param} is not a JSON object", param) from None


def _invalid(message: str, param: str) -> GatewayError:
    return GatewayError(error_reason_pb2.ERROR_REASON_INVALID_REQUEST, message, param=param)
