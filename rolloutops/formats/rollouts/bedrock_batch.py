"""Files of Amazon Bedrock's batch inference: input (`recordId`, `modelInput`), and output, which has `modelOutput` or
`error` beside them (docs.aws.amazon.com, Bedrock user guide, batch-inference-data and batch-inference-results, 2026).

The bodies are those of Converse (and of Nova), of Anthropic's messages, of Chat Completions, and of text models:
Llama's `generation`, Titan's `results`, Mistral's `outputs`. A row of output says itself what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rolloutops.errors import AttemptFailed
from rolloutops.formats.anthropic import from_anthropic, tools_of
from rolloutops.formats.chat import from_chat
from rolloutops.formats.finish_reasons import finish_reason
from rolloutops.formats.gemini import member
from rolloutops.formats.openai_replies import count_of, failure
from rolloutops.formats.rollouts.anthropic_batch import answer_of
from rolloutops.formats.rollouts.conversation import answer_messages, says_something
from rolloutops.formats.rollouts.openai_batch import answers_in, task_of
from rolloutops.formats.rollouts.row import VERIFIER, RolloutRow
from rolloutops.formats.strict_json import dump
from rolloutops.types import Message, RolloutAnswer

LABEL, ENGINE = "Bedrock batch", "import:bedrock_batch"
ASKED = ("messages", "system", "tools", "toolConfig", "prompt", "inputText")
READ = ("recordId", "modelInput", "modelOutput", "error")
COUNTS = {
    "input": ("inputTokens", "prompt_token_count", "inputTextTokenCount"),
    "output": ("outputTokens", "generation_token_count", "tokenCount"),
}
"""Where an output has its tokens."""


def recognizes(row: Mapping[str, Any]) -> bool:
    """Whether a row holds a model's input, and nothing of another format."""
    return isinstance(row.get("modelInput"), Mapping)


def read(row: Mapping[str, Any], raw: str) -> RolloutRow:
    """An input with its task, and with its rollout where the row has one. Raises ValueError where either cannot be
    read."""
    body, output, error = row["modelInput"], row.get("modelOutput"), row.get("error")
    answers: list[RolloutAnswer | AttemptFailed] = []
    if isinstance(output, Mapping):
        answers = _answers(output, row, raw)
    elif error:
        status = count_of(member(error, "errorCode")) or 500
        answers = [failure(status, {}, dump({"error": {"message": member(error, "errorMessage")}}).encode())]
    return RolloutRow(
        _task(body),
        answers,
        params={key: value for key, value in body.items() if key not in ASKED},
        left_out=[key for key in row if key not in READ],
        shape="Bedrock batch output" if answers else "Bedrock batch request",
    )


def _task(body: Mapping[str, Any]) -> dict[str, Any]:
    text = body.get("prompt") or body.get("inputText")
    if not isinstance(body.get("messages"), list):
        if not isinstance(text, str):
            raise ValueError("modelInput has no messages, prompt or inputText")
        return {"messages": [{"role": "user", "content": text}]}
    if "anthropic_version" in body:
        tools: Any = tools_of(body.get("tools"))
        return {"messages": from_anthropic(body["messages"], body.get("system")), **({"tools": tools} if tools else {})}
    if "toolConfig" not in body and "system" not in body:
        return task_of(body)
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    tools = [_tool(each) for each in member(body.get("toolConfig"), "tools") or ()]
    return {"messages": from_chat([*system, *body["messages"]]), **({"tools": tools} if tools else {})}


def _tool(tool: Any) -> Any:
    """A tool of Converse as one of chat."""
    spec = member(tool, "toolSpec")
    if not isinstance(spec, Mapping):
        return tool
    function = {"name": spec.get("name"), "description": spec.get("description")}
    return {"type": "function", "function": {**function, "parameters": member(spec.get("inputSchema"), "json")}}


def _answers(output: Mapping[str, Any], row: Mapping[str, Any], raw: str) -> list[RolloutAnswer | AttemptFailed]:
    if isinstance(output.get("choices"), list):
        try:
            return answers_in(output, row, raw)
        except AttemptFailed as failed:
            return [failed]
    if isinstance(output.get("content"), list):
        return [answer_of({"type": "succeeded", "message": output}, raw)]
    # Titan and Mistral have a list of one.
    several = next((output[key] for key in ("results", "outputs") if isinstance(output.get(key), list)), None)
    said = several[0] if several and isinstance(several[0], Mapping) else output
    message = member(output.get("output"), "message")
    completion = _completion(message, said)
    called = [call["function"]["name"] for each in completion for call in each.get("tool_calls", ())]
    word = next((found for key in ("stopReason", "stop_reason", "completionReason") if (found := said.get(key))), None)
    word = "stop" if word == "FINISH" else word
    if not says_something(completion):
        raise ValueError("modelOutput holds no answer")
    usage = output.get("usage")
    places = [place for place in (usage, said, output) if isinstance(place, Mapping)]
    tokens = {
        name: next((found for place in places for key in keys if (found := count_of(place.get(key))) is not None), None)
        for name, keys in COUNTS.items()
    }
    cached = count_of(member(usage, "cacheReadInputTokens"))
    return [
        RolloutAnswer(
            completion=completion,
            finish_reason=finish_reason(word, bool(called)),
            model=None,
            returned=None,
            verifier=VERIFIER,
            raw=raw,
            tool_names=called,
            input_tokens=None if tokens["input"] is None else tokens["input"] + (cached or 0),
            output_tokens=tokens["output"],
            cached_tokens=cached,
        )
    ]


def _completion(message: Any, result: Mapping[str, Any]) -> list[Message]:
    """The answer as messages: Converse's message, or the text of a text model."""
    if isinstance(message, Mapping):
        return from_chat([message])
    text = next((result[key] for key in ("generation", "outputText", "text") if isinstance(result.get(key), str)), None)
    return [] if text is None else answer_messages(text)
