"""Hypothesis strategies for requests of this API as clients may write them, with members nobody knows everywhere."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

__all__ = ["json_objects", "json_values", "requests", "words"]

words = st.text(st.characters(codec="utf-8"), max_size=12)
_names = st.text("abcdefgh_-", min_size=1, max_size=8)
_numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | _numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(words, json_values, max_size=3)
_extra = st.dictionaries(st.sampled_from(["x_a", "x_b", "cache_control", "extra_body"]), json_values, max_size=2)


def _object(required: dict[str, st.SearchStrategy[Any]], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with its required members, some of its optional ones, perhaps null, and some that nobody knows."""
    nullable = {name: st.none() | strategy for name, strategy in optional.items()}
    known = st.fixed_dictionaries(required, optional=nullable)
    return st.builds(lambda extra, members: {**extra, **members}, _extra, known)


def _either(*strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(*strategies)


_text_part = _object({"type": st.just("text"), "text": words})
_image_part = _object(
    {
        "type": st.just("image_url"),
        "image_url": st.just("https://a.example/b.png")
        | _object({"url": st.sampled_from(["https://a.example/b.png", "data:image/png;base64,aGk="])}, detail=words),
    }
)
_audio_part = _object(
    {"type": st.just("input_audio"), "input_audio": st.just("aGk=") | _object({"data": st.just("aGk=")}, format=words)}
)
_file_data = st.sampled_from(["data:application/pdf;base64,aGk=", "https://a.example/b.pdf", "aGk="])
_file_part = _object(
    {"type": st.just("file"), "file": _object({}, file_data=_file_data, file_id=words, filename=words)}
)
_refusal_part = _object({"type": st.just("refusal"), "refusal": words})
_other_part = _object(
    {"type": st.sampled_from(["video_url", "document_url", "thinking", ""]), "video_url": json_values}
)
_parts = st.lists(_either(_text_part, _image_part, _audio_part, _file_part, _refusal_part, _other_part), max_size=4)

_signature = st.just({"google": {"thought_signature": "c2ln"}}) | json_values
_function_call = _object({"name": words, "arguments": words})
_tool_call = _either(
    _object({"id": words, "type": st.just("function"), "function": _function_call}, extra_content=_signature),
    _object({"id": words, "type": st.just("custom"), "custom": _object({"name": words, "input": words})}),
    _object({"id": words, "type": st.just("mcp"), "mcp": json_values}),
)
_detail = _either(
    _object({"type": st.just("reasoning.text")}, text=words, signature=words, id=words, index=st.integers(0, 3)),
    _object({"type": st.just("reasoning.summary")}, summary=words, id=words, format=words),
    _object({"type": st.just("reasoning.encrypted")}, data=words, id=words),
    _object({"type": _names}, text=words),
)
_thinking = _either(
    _object({"type": st.just("thinking")}, thinking=words, signature=words),
    _object({"type": st.just("redacted_thinking")}, data=words),
    _object({"type": _names}, thinking=words),
)

_content = words | _parts
_message = _either(
    _object({"role": st.sampled_from(["system", "developer", "user"]), "content": _content}, name=words),
    _object({"role": st.just("tool"), "content": _content, "tool_call_id": words}),
    _object({"role": st.just("function"), "content": st.none() | words, "name": words}),
    _object(
        {"role": st.just("assistant")},
        content=_content,
        refusal=words,
        name=words,
        audio=_object({"id": words}, data=words, transcript=words, expires_at=st.integers(0, 2**40)),
        tool_calls=st.lists(_tool_call, max_size=3),
        function_call=_function_call,
        annotations=st.lists(json_objects, max_size=2),
        reasoning_content=words,
        reasoning=words,
        reasoning_details=st.lists(_detail, max_size=3) | json_values,
        thinking_blocks=st.lists(_thinking, max_size=3) | json_values,
    ),
)

_function = _object({"name": words}, description=words, parameters=json_objects, strict=st.booleans())
_tool = _either(
    _object({"type": st.just("function"), "function": _function}),
    _object({"type": st.just("custom"), "custom": json_objects}),
    _object({"type": st.sampled_from(["web_search", "mcp"])}),
)
_tool_choice = _either(
    st.sampled_from(["none", "auto", "required", "any"]),
    st.builds(lambda name: {"type": "function", "function": {"name": name}}, words),
    _object({"type": st.sampled_from(["allowed_tools", "custom"])}, allowed_tools=json_objects),
)
_schema = _object({"name": words}, description=words, schema=json_objects, strict=st.booleans())
_response_format = _either(
    _object({"type": st.sampled_from(["text", "json_object"])}, schema=json_objects),
    _object({"type": st.just("json_schema"), "json_schema": _schema}),
    _object({"type": st.just("grammar")}, grammar=words),
)

requests = _object(
    {"model": words, "messages": st.lists(_message, min_size=1, max_size=4)},
    audio=_object({"voice": words.filter(lambda voice: voice[:1] != "{") | json_objects, "format": words}),
    frequency_penalty=st.floats(-2, 2),
    function_call=st.sampled_from(["none", "auto"]) | st.builds(lambda name: {"name": name}, words) | json_objects,
    functions=st.lists(_function, max_size=2),
    logit_bias=st.dictionaries(st.integers(0, 99).map(str), st.integers(-100, 100), max_size=3),
    logprobs=st.booleans(),
    max_completion_tokens=st.integers(1, 2**63 - 1),
    max_tokens=st.integers(1, 2**31),
    metadata=st.dictionaries(words, words, max_size=3),
    modalities=st.lists(st.sampled_from(["text", "audio"]), max_size=2),
    n=st.integers(1, 128),
    parallel_tool_calls=st.booleans(),
    prediction=json_objects,
    presence_penalty=st.floats(-2, 2),
    prompt_cache_key=words,
    reasoning=json_objects,
    reasoning_effort=words,
    response_format=_response_format,
    safety_identifier=words,
    seed=st.integers(-(2**63), 2**63 - 1),
    service_tier=words,
    stop=words | st.lists(words, max_size=4),
    store=st.booleans(),
    stream=st.booleans(),
    stream_options=_object({}, include_usage=st.booleans(), include_obfuscation=st.booleans()),
    temperature=st.integers(0, 2) | st.floats(0, 2),
    thinking=json_objects,
    tool_choice=_tool_choice,
    tools=st.lists(_tool, max_size=3),
    top_logprobs=st.integers(0, 20),
    top_p=st.floats(0, 1),
    user=words,
    verbosity=words,
    web_search_options=json_objects,
)
