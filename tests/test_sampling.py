"""Sampling parameters: what endpoints know passes, what is misspelt or of another type is refused, n is num_repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from rolloutops.config.sampling import refuse_bad_sampling
from rolloutops.errors import UsageError
from rolloutops.formats.nemo_gym import create_params
from rolloutops.formats.openai_requests import chat_body, responses_body
from rolloutops.types import ModelCall
from tests.helpers import query, rolloutops, write_jsonl
from tests.loopback import serving

KNOWN = {
    "OpenAI": {
        "temperature": 1,
        "top_p": 0.5,
        "max_output_tokens": 9,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}},
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "metadata": {},
        "max_completion_tokens": 9,
        "stop": ["a"],
        "logit_bias": {"50256": -100},
        "top_logprobs": 2,
        "logprobs": True,
        "service_tier": "flex",
    },
    "vLLM": {
        "min_tokens": 1,
        "top_k": 20,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
        "stop_token_ids": [1],
        "bad_words": ["no"],
        "chat_template_kwargs": {"enable_thinking": False},
        "structured_outputs": {"choice": ["a"]},
        "logprobs": 1,
    },
    "SGLang": {"max_new_tokens": 9, "regex": "a+", "ebnf": "root", "separate_reasoning": True, "sampling_seed": 1},
    "nothing": {
        "temperature": None,
        "n": None,
        "stream": False,
        "background": None,
        "seed": 1,
        "extra_body": {"enable_thinking": False},
    },
}


@pytest.mark.parametrize("params", KNOWN.values(), ids=list(KNOWN))
def test_what_endpoints_know_passes(params: dict[str, Any]) -> None:
    refuse_bad_sampling({**params, "n": 1})


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"stream": True}, r"responses_create_params\.stream changes how a reply is sent, .*: leave it out"),
        ({"stream_options": {"include_usage": True}}, r"stream_options changes how"),
        ({"background": True}, r"background changes how"),
        ({"extra_body": {"stream": True}}, r"responses_create_params\.extra_body\.stream changes how"),
        ({"extra_body": {"n": 2}}, r"responses_create_params\.extra_body\.n must be 1"),
        ({"temprature": 1}, r"responses_create_params\.temprature: .*, did you mean 'temperature'\?; .* extra_body"),
        ({"top_pp": 1}, r"did you mean 'top_p'\?"),
        ({"max_token": 9}, r"did you mean 'max_tokens'\?"),
        ({"repetition_penality": 1.0}, r"did you mean 'repetition_penalty'\?"),
        ({"zzz": 1}, r"have no parameter of this name; .* responses_create_params\.extra_body\.zzz"),
        ({"max_output_tokens": "9"}, r"max_output_tokens must be a whole number, not '9'"),
        ({"max_output_tokens": 9.5}, r"must be a whole number, not 9\.5"),
        ({"seed": True}, r"seed must be a whole number, not True"),
        ({"stop": 3}, r"stop must be text or a list of texts, not 3"),
        ({"reasoning": "low"}, r"reasoning must be a table, not 'low'"),
        ({"ignore_eos": "yes"}, r"ignore_eos must be true or false, not 'yes'"),
        ({"n": 8}, r"n must be 1, not 8: .* num_repeats = 8"),
    ],
)
def test_what_is_refused(params: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        refuse_bad_sampling(params)


def test_a_custom_engine_may_know_more_names_but_no_other_types() -> None:
    refuse_bad_sampling({"beams": 4}, any_name=True)
    with pytest.raises(UsageError, match="temperature must be a number"):
        refuse_bad_sampling({"temperature": "hot"}, any_name=True)


def test_extra_body_reaches_each_kind_of_endpoint() -> None:
    call = ModelCall([{"role": "user", "content": "Q"}], None, {"extra_body": {"enable_thinking": False}, "top_p": 0.5})
    for body in (chat_body(call, "m"), responses_body(call, "m")):
        assert (body["enable_thinking"], body["top_p"], "extra_body" in body) == (False, 0.5, False)
    row = {"responses_create_params": {"input": "Q", "metadata": {"who": "me"}}}
    metadata = create_params(row, call.messages, None, call.params)["metadata"]
    assert (metadata["who"], orjson.loads(metadata["extra_body"])) == ("me", {"enable_thinking": False})


def test_a_reply_in_a_stream_is_refused_on_the_command_line_and_left_out_of_rows(tmp_path: Path) -> None:
    own = {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5}
    metadata = {"extra_body": '{"stream": true, "top_k": 3}'}
    rows = [
        {"responses_create_params": {"input": "a", **own}},
        {"responses_create_params": {"input": "b", "metadata": metadata}},
        {"responses_create_params": {"input": "c", "stream": False}},
    ]
    write_jsonl(tmp_path / "tasks.jsonl", rows)
    with serving() as server:
        words = ("--data=w", "--input=tasks.jsonl", "--engine=openai", "--model=m", f"--base_url={server.url}")
        for given in ("+responses_create_params.stream=true", "--engine_args.extra_body.stream=true"):
            for command in ("check", "collect", "run"):
                done = rolloutops(command, *words, given, cwd=tmp_path, code=2)
                assert "stream changes how a reply is sent" in done.stdout + done.stderr
        done = rolloutops("collect", *words, cwd=tmp_path)
        assert "stream, stream_options, background left out of the rows of 2 tasks, because" in done.stderr
    assert [sorted({"stream", "stream_options"} & {*body}) for body in server.bodies] == [[], [], []]
    assert sorted(str(body.get("temperature") or body.get("top_k")) for body in server.bodies) == ["0.5", "3", "None"]
    assert query(tmp_path / "w", "SELECT count(*) FROM attempts WHERE request::VARCHAR LIKE '%stream_options%'") == [
        (0,)
    ]
    gym = create_params(rows[0], [], None, {})
    assert gym == {"input": [], "temperature": 0.5}
