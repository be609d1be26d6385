"""What the vllm engine does with text: a call becomes prompt tokens and sampling parameters, an output a message."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from rolloutops.errors import AttemptFailed, did_you_mean
from rolloutops.formats.finish_reasons import finish_reason
from rolloutops.formats.media import FORMS, scheme_of
from rolloutops.formats.replay import readable_arguments
from rolloutops.formats.task_rows import to_chat
from rolloutops.layout import count
from rolloutops.types import Message, ModelAnswer, ModelCall

RENAMED = {"max_output_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}
OWN = frozenset(
    {"detokenize", "flat_logprobs", "logprobs", "n", "output_kind", "output_text_buffer_length", "prompt_logprobs"}
    | {"skip_clone", "stream_interval"}
)
"""Sampling parameters that the engine sets itself."""
IGNORED = frozenset(
    {"background", "include", "input", "logprobs", "max_tool_calls", "messages", "metadata", "model", "store", "tools"}
    | {"parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "service_tier"}
    | {"safety_identifier", "stream", "stream_options", "top_logprobs", "truncation", "user"}
)
"""Request parameters that say nothing offline, or that were heeded before the engine."""


@dataclass(frozen=True)
class MediaPrompt:
    """A prompt with media, which vLLM renders: it decodes them and puts their places between the tokens. options: of
    the chat template."""

    messages: Sequence[Message]
    options: Mapping[str, Any]
    template: str | None

    def render(self, renderer: Any) -> Any:
        """What the engine takes: tokens and `multi_modal_data`."""
        from vllm.renderers import ChatParams

        params = ChatParams(chat_template=self.template, chat_template_kwargs=dict(self.options))
        return renderer.render_chat([list(self.messages)], params)[1][0]


@dataclass(frozen=True)
class Text:
    """How a model reads and writes. The first five are settings; the rest comes with the loaded model.

    chat_template: in place of the tokenizer's. reasons: a reasoning parser was asked for. token_ids: answers carry
    them. tokenizer: a HF tokenizer. parser: a class of `vllm.parser`. config: vLLM's ModelConfig. defaults: the
    sampling parameters that the model's own generation_config.json sets.
    """

    model: str
    chat_template: str | None
    template_kwargs: Mapping[str, Any]
    reasons: bool
    token_ids: bool
    tokenizer: Any = None
    parser: Any = None
    config: Any = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def template(self) -> str | None:
        """The chat template; empty where the tokenizer works without one, None where it needs one."""
        return self.chat_template or getattr(self.tokenizer, "chat_template", "")

    def prepare(self, call: ModelCall) -> tuple[list[int] | MediaPrompt, Any, list[dict[str, Any]] | None]:
        """Token ids or a prompt with media, SamplingParams, and the tools that are offered. Raises AttemptFailed."""
        from vllm import SamplingParams

        known = SamplingParams.__struct_fields__
        values, options = sampling_values(call.params, known)
        tools = list(call.tools) if call.tools and options.pop("tool_choice", "auto") != "none" else None
        options.pop("tool_choice", None)
        own = {"max_tokens": None, "skip_special_tokens": not tools and not self.reasons}  # parsers want to see them
        if self.token_ids:
            values |= {"logprobs": 0, "flat_logprobs": True}
        params = _sampling_params({**self.defaults, **own, **values})
        messages = template_messages(call.messages, options.pop("instructions", None), self.template)
        if any(not isinstance(item["content"], str) for item in messages):
            return self._with_media(messages, tools, options), params, tools
        prompt = self._tokens(messages, tools, options)
        room = self.config.max_model_len
        if len(prompt) + 1 > room:
            raise AttemptFailed("context_length", f"a prompt of {count(len(prompt), 'token')} does not fit into {room}")
        return prompt, params, tools

    def _with_media(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, options: dict[str, Any]
    ) -> MediaPrompt:
        if not getattr(self.config, "is_multimodal_model", False):
            raise AttemptFailed("bad_request", f"{self.model} takes text only, and the prompt has media")
        options = {"add_generation_prompt": True, "tools": tools, **self.template_kwargs, **options, "tokenize": True}
        return MediaPrompt(messages, options, self.chat_template)

    def _tokens(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, options: dict[str, Any]
    ) -> list[int]:
        own = {"chat_template": self.chat_template} if self.chat_template else {}
        try:
            tokens = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,
                tokenize=True,
                return_dict=False,
                **{"add_generation_prompt": True, **own, **self.template_kwargs, **options},
            )
        except Exception as error:
            failed = AttemptFailed("bad_request", f"the chat template refuses the prompt: {first_line(error)}")
            failed.of_conversation = True
            raise failed from error
        return list(tokens)

    def read(self, call: ModelCall, tools: list[dict[str, Any]] | None, output: Any) -> ModelAnswer:
        """A finished RequestOutput as an answer. Raises AttemptFailed where vLLM gave the request up."""
        best = output.outputs[0]
        if best.finish_reason in ("abort", "error"):
            raise AttemptFailed(
                "engine_error", f"vLLM ended the request: {best.finish_reason} {best.stop_reason or ''}"
            )
        message, reasoning_tokens = self._message(call, tools, best)
        raw = {"text": best.text, "finish_reason": best.finish_reason, "stop_reason": best.stop_reason}
        return ModelAnswer(
            message=message,
            finish_reason=finish_reason(best.finish_reason, called="tool_calls" in message),
            model=self.model,
            input_tokens=len(output.prompt_token_ids),
            output_tokens=len(best.token_ids),
            reasoning_tokens=reasoning_tokens,
            cached_tokens=output.num_cached_tokens,
            raw=orjson.dumps(raw).decode(),
            prompt_token_ids=list(output.prompt_token_ids) if self.token_ids else None,
            generation_token_ids=list(best.token_ids) if self.token_ids else None,
            generation_log_probs=list(best.logprobs.logprobs) if self.token_ids else None,
        )

    def _message(self, call: ModelCall, tools: list[dict[str, Any]] | None, best: Any) -> tuple[Message, int | None]:
        """The text, with reasoning and tool calls taken out by vLLM's parsers; and how many tokens were reasoning."""
        if not tools and not self.reasons:
            return {"role": "assistant", "content": best.text}, None
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        offered: dict[str, Any] = {"tools": tools, "tool_choice": "auto"} if tools else {}
        request = ChatCompletionRequest(messages=[{"role": "user", "content": ""}], **offered)
        settings = {"chat_template_kwargs": dict(self.template_kwargs), "model_config": self.config}
        parser = self.parser(self.tokenizer, request.tools, **settings)
        reasoning, content, calls = parser.parse(
            best.text, request, enable_auto_tools=bool(tools), model_output_token_ids=best.token_ids
        )
        message: Message = {"role": "assistant", "content": content or ""}
        if reasoning:
            message["reasoning_content"] = reasoning
        if calls:
            message["tool_calls"] = [_tool_call(call, number, parsed) for number, parsed in enumerate(calls)]
        return message, parser.count_reasoning_tokens(best.token_ids) if self.reasons else None


def sampling_values(params: Mapping[str, Any], known: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """OpenAI parameters (Responses or Chat names) as values of `vllm.SamplingParams`, and options for the prompt:
    `tool_choice`, `instructions`, and variables for the chat template.

    known: the names that SamplingParams has. Nulls are as good as absent. `extra_body`, and what NeMo Gym carries in
    `metadata`, are merged over the rest.
    Raises AttemptFailed("bad_request") for a name that neither OpenAI nor vLLM has; values are checked by vLLM.
    """
    metadata = params.get("metadata") or {}
    body = {**params, **_table(metadata.get("extra_body"), "metadata.extra_body")}
    body |= _table(body.pop("extra_body", None), "extra_body")
    values: dict[str, Any] = {}
    options = _table(body.pop("chat_template_kwargs", None), "chat_template_kwargs")
    options |= _table(metadata.get("chat_template_kwargs"), "metadata.chat_template_kwargs")
    for name, value in body.items():
        if value is None:
            continue
        if name == "n":
            if value != 1:
                raise AttemptFailed("bad_request", "n must be 1: for several rollouts of a task set num_repeats")
        elif name == "text":
            values |= _structured(_table(value, name).get("format"))
        elif name == "response_format":
            values |= _structured(value)
        elif name == "reasoning":
            if effort := _table(value, name).get("effort"):
                options["reasoning_effort"] = effort
        elif name in ("reasoning_effort", "instructions"):
            options[name] = value
        elif name == "tool_choice":
            if value not in ("auto", "none"):
                raise AttemptFailed("bad_request", f"tool_choice {value!r} is not possible here: auto or none")
            options[name] = value
        elif RENAMED.get(name, name) in known and name not in OWN and not name.startswith("_"):
            values[RENAMED.get(name, name)] = value
        elif name not in IGNORED:
            names = {*RENAMED, *IGNORED, *known} - OWN
            raise AttemptFailed("bad_request", f"no parameter {name!r}{did_you_mean(name, names)}")
    return values, options


def template_messages(
    messages: Sequence[Message], instructions: str | None, template: str | None
) -> list[dict[str, Any]]:
    """Canonical messages as chat templates want them: text as a string, tool-call arguments as objects; content with
    media as the parts that vLLM reads.

    instructions: the parameter of that name, put before the rest as a system message.
    template: where it knows no role developer, such a message is a system message.
    Raises AttemptFailed("bad_request") for parts that are neither text nor media with their bytes.
    """
    out = to_chat(messages, "object")
    for item in out:
        for call in item.get("tool_calls", ()):
            if isinstance(call["function"]["arguments"], str):
                call["function"]["arguments"] = orjson.loads(readable_arguments(call["function"]["arguments"]))
        if item["role"] == "developer" and "developer" not in (template or ""):
            item["role"] = "system"
        if not isinstance(item["content"], str):
            item["content"] = [_vllm_part(part) for part in item["content"]]
    if instructions and not (out and out[0]["content"] == instructions):  # else they are in the prompt already
        out.insert(0, {"role": "system", "content": instructions})
    return out


def _vllm_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of text, or of a medium with its bytes: vLLM would fetch what is behind a URL, and open a path."""
    kind = str(part.get("type"))
    held = part.get(kind)
    if kind == "text":
        return dict(part)
    if kind == "input_audio" and isinstance(held, dict) and isinstance(held.get("data"), str):
        return {"type": kind, kind: held}
    place = held.get("url") if kind in FORMS and isinstance(held, dict) else None
    if isinstance(place, str) and scheme_of(place) == "data":
        return {"type": kind, kind: {"url": place.strip()}}
    if isinstance(place, str):
        raise AttemptFailed("bad_request", "the vllm engine does not fetch URLs: download the file and write its path")
    what = "text, images, videos and audio only"
    raise AttemptFailed("bad_request", f"the vllm engine takes {what}: serve the model, and use engine openai")


def first_line(error: BaseException) -> str:
    """What an error says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:500]}" if lines else type(error).__name__


def _sampling_params(values: Mapping[str, Any]) -> Any:
    """SamplingParams with every value of the right type: a wrong one, once in the batch, would end the engine."""
    import msgspec
    from vllm import SamplingParams
    from vllm.exceptions import VLLMError
    from vllm.sampling_params import RequestOutputKind

    try:
        params = msgspec.convert(dict(values), SamplingParams, str_keys=True)
    except (VLLMError, msgspec.ValidationError, ValueError, TypeError) as error:
        raise AttemptFailed("bad_request", f"vLLM refuses the parameters: {first_line(error)}") from error
    params.output_kind = RequestOutputKind.FINAL_ONLY
    return params


def _tool_call(call: ModelCall, number: int, parsed: Any) -> dict[str, Any]:
    """A canonical tool call. Its id is the same in each run, and has the nine characters that some templates want."""
    own = hashlib.sha256(f"{call.key} {call.turn} {number}".encode()).hexdigest()[:9]
    function = {"name": parsed.name, "arguments": parsed.arguments}
    return {"id": parsed.id or own, "type": "function", "function": function}


def _table(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise AttemptFailed("bad_request", f"{name} is not JSON: {error}") from error
    if value is not None and not isinstance(value, dict):
        raise AttemptFailed("bad_request", f"{name} must be an object, not {value!r}")
    return dict(value or {})


def _structured(wanted: Any) -> dict[str, Any]:
    """`text.format` (Responses) or `response_format` (Chat) as structured_outputs."""
    form = _table(wanted, "format")
    match form.get("type", "text"):
        case "text":
            return {}
        case "json_object":
            return {"structured_outputs": {"json_object": True}}
        case "json_schema":
            schema = form.get("schema") or _table(form.get("json_schema"), "json_schema").get("schema")
            if isinstance(schema, dict):
                return {"structured_outputs": {"json": schema}}
            raise AttemptFailed("bad_request", "a json_schema format needs a schema")
        case other:
            raise AttemptFailed("bad_request", f"the format must be text, json_object or json_schema, not {other!r}")
