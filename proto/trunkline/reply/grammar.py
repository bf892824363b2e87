"""The grammar of a chat stream, checked event by event.

The rules and their numbers stand in chat_event.proto; whatever is not against one of them is accepted.
"""

from __future__ import annotations

from typing import Final

from trunkline.inference.v1 import chat_event_pb2 as events_pb
from trunkline.inference.v1.chat_event_pb2 import ChatEvent

__all__ = ["GrammarChecker", "GrammarError"]

# The kind of part that each delta adds to.
_KIND_OF_DELTA: Final = {
    "text_delta": "text",
    "reasoning_delta": "reasoning",
    "tool_call_delta": "tool_call",
    "refusal_delta": "refusal",
    "audio_delta": "audio",
    "annotation_added": "text",
}
_WHOLE_AUDIO: Final = "audio in base64"  # a part that began with data_base64 came whole: sound cannot be appended to it


class GrammarError(ValueError):
    """A stream breaks the grammar of chat_event.proto; `rule` is the number of the rule there."""

    def __init__(self, rule: int, message: str) -> None:
        super().__init__(f"rule {rule} of the chat stream grammar: {message}")
        self.rule = rule


class GrammarChecker:
    """Reads one stream beside its consumer and raises GrammarError at the first event that breaks a rule."""

    __slots__ = ("_choices", "_started")

    def __init__(self) -> None:
        self._started = False
        self._choices: dict[int, _ChoiceState] = {}

    def check(self, event: ChatEvent) -> None:
        """Accept the next event, or raise GrammarError. An unknown (newer) kind of event is accepted."""
        kind = event.WhichOneof("event")
        if kind is None:
            return
        if kind == "started":
            if self._started:
                raise GrammarError(1, "a second Started")
            self._started = True
            return
        if not self._started:
            raise GrammarError(1, f"{kind} before Started")
        if kind == "usage_reported":
            if not event.usage_reported.HasField("usage"):
                raise GrammarError(6, "UsageReported without usage would replace the counts by nothing")
        elif kind == "extra_reported":
            if event.extra_reported.scope != events_pb.EXTRA_SCOPE_REPLY:
                self._choice(event.extra_reported.choice)
        else:
            self._check_step(kind, event)

    def _check_step(self, kind: str, event: ChatEvent) -> None:
        step = getattr(event, kind)
        choice = self._choice(step.choice)
        if choice.finished:
            raise GrammarError(5, f"{kind} of choice {step.choice} after its ChoiceFinished")
        if kind == "choice_finished":
            choice.finish(step.choice)
        elif kind == "part_started":
            choice.start_part(step)
        elif kind == "part_finished":
            if choice.open_parts.pop(step.part, None) is None:
                raise GrammarError(3, f"part {step.part} of choice {step.choice} is finished but not open")
        elif choice.open_parts.get(step.part) != _KIND_OF_DELTA[kind]:
            found = choice.open_parts.get(step.part) or "not open"
            raise GrammarError(3, f"{kind} for part {step.part} of choice {step.choice}, which is {found}")

    def end(self) -> None:
        """Accept the end of the stream, or raise GrammarError with rule 7 when it is truncated."""
        if not self._choices:
            raise GrammarError(7, "the stream ended before any choice began")
        unfinished = sorted(index for index, choice in self._choices.items() if not choice.finished)
        if unfinished:
            raise GrammarError(7, f"the stream ended without ChoiceFinished of choice {unfinished[0]}")
        if len(self._choices) != max(self._choices) + 1:
            raise GrammarError(2, f"choices {sorted(self._choices)} are not numbered from 0 without a gap")

    def _choice(self, index: int) -> _ChoiceState:
        choice = self._choices.get(index)
        if choice is None:
            if index < 0:
                raise GrammarError(2, f"choice {index}")
            choice = self._choices[index] = _ChoiceState()
        return choice


class _ChoiceState:
    """How far one choice has come."""

    __slots__ = ("finished", "open_parts", "part_count")

    def __init__(self) -> None:
        self.part_count = 0
        self.open_parts: dict[int, str] = {}
        self.finished = False

    def start_part(self, step: events_pb.PartStarted) -> None:
        if step.part != self.part_count:
            raise GrammarError(2, f"part {step.part} of choice {step.choice} starts where {self.part_count} is due")
        self.part_count += 1
        kind: str = step.begin.WhichOneof("part") or "of a newer kind"
        if kind == "audio" and step.begin.audio.WhichOneof("source") == "data_base64":
            kind = _WHOLE_AUDIO
        self.open_parts[step.part] = kind

    def finish(self, index: int) -> None:
        if self.open_parts:
            raise GrammarError(4, f"choice {index} finished while its part {min(self.open_parts)} is open")
        self.finished = True
