"""The built-in verifiers: (answer, gold, reward), with answers that try to get what they did not earn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolloutops.environments import answers, exact_match, mcqa, multi_step
from rolloutops.errors import MissingExtra, UsageError
from rolloutops.types import Rollout, Task

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared example data is not beside the checkout")


def task(answer: str | None = None, /, **row: Any) -> Task:
    return Task("demo", "1", row, [{"role": "user", "content": "?"}], None, answer)


def said(text: str) -> Rollout:
    return Rollout([{"role": "assistant", "content": text}], text, "stop")


def lines(path: str) -> Iterator[dict[str, Any]]:
    for line in (SHARED / path).read_text().splitlines():
        yield json.loads(line)


def output_text(row: dict[str, Any]) -> str:
    """The assistant's text of a NeMo Gym rollout row."""
    messages = [item for item in row["response"]["output"] if item["type"] == "message"]
    return "".join(part["text"] for message in messages for part in message["content"])


EXACT = [
    # answer of the policy, gold, reward
    ("72", "72", 1),
    ("  72\n", "72", 1),
    ("The sum is 70 + 2.\n#### 72", "72", 1),
    ("The sum is \\boxed{72}.", "72", 1),
    ("Answer: 72.", "72", 1),
    ("**Answer:** 72", "72", 1),
    ("The final answer is $72$.", "72", 1),
    ("Answer:\n\n72", "72", 1),
    ("\\boxed{1,234}", "1234.0", 1),
    ("1234.50", "1,234.5", 1),
    ("$1,234", "1234", 1),
    ("12,34", "1234", 0),
    ("Paris", "Paris", 1),
    ("paris", "Paris", 0),
    ("Answer: 71\nNo. Answer: 72", "72", 1),
    ("Answer: 72\nNo. Answer: 71", "72", 0),
    ("\\boxed{72} or \\boxed{71}", "72", 0),
    ("Answer: 72 or 71", "72", 0),
    ("I think it is 72 or 71", "72", 0),
    ("1e400", "1e400", 1),
    ("1e400", "1", 0),
    ("1e99999999999999999999", "1", 0),
    ("inf", "1e400", 0),
    ("nan", "nan", 1),
    ("", "72", 0),
    ("\n \n", "72", 0),
    ("Answer:", "72", 0),
    ("\\boxed{}", "72", 0),
    ("\\boxed{72", "72", 0),
    ("<think>Answer: 72</think>", "72", 0),
    ("<think>Answer: 72", "72", 0),
    ("<think>Answer: 71</think>Answer: 72", "72", 1),
    ("72 " * 3_000_000, "72", 0),
    ("x" * 10_000_000 + "\nAnswer: 72", "72", 1),
    ("\\boxed{" * 2000, "72", 0),
    ("72", "Nine times eight is 72.\n#### 72", 1),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", 1),
]


@pytest.mark.parametrize(("text", "gold", "reward"), EXACT, ids=range(len(EXACT)))
def test_exact_match(text: str, gold: str, reward: int) -> None:
    assert exact_match.make().verify(task(gold), said(text))["reward"] == reward


def test_exact_match_settings() -> None:
    assert exact_match.make(ignore_case=True).verify(task("Paris"), said("PARIS"))["reward"] == 1
    assert exact_match.make(extract="whole").verify(task("Answer: B"), said("Answer: B"))["reward"] == 1
    assert exact_match.make(extract="whole", strip=False).verify(task("B"), said(" B"))["reward"] == 0
    assert exact_match.make(extract="last_line").verify(task("B"), said("Answer: A\n**B**\n"))["extracted"] == "B"
    assert exact_match.make(extract=r"=> (\w+)").verify(task("B"), said("=> A => B"))["reward"] == 1
    assert exact_match.make(extract=r"=> (\w+)").verify(task("B"), said("B")) == {
        "reward": 0.0,
        "extracted": None,
        "answered": False,
    }
    assert exact_match.make(extract=r"(a+)+$").runs == "process", (
        "a pattern of the user's must run where it can be stopped"
    )
    assert exact_match.make().runs is None
    with pytest.raises(UsageError, match=r"extract = '\(' is not a regular expression"):
        exact_match.make(extract="(")
    with pytest.raises(ValueError, match="no expected answer"):
        exact_match.make().verify(task(None), said("72"))


@given(st.text())
def test_exact_match_gold_scores(answer: str) -> None:
    """Whatever the task's answer is, the gold answer scores 1.0, or there is none."""
    environment = exact_match.make()
    gold = environment.gold(task(answer))
    assert gold is None or environment.verify(task(answer), said(gold))["reward"] == 1
    if answer.strip().isalnum():
        assert gold is not None


@needs_data
def test_exact_match_agrees_with_the_published_grades_of_gsm8k() -> None:
    """1319 problems with 4 answers each, which end in `A: 18`, against the grades that came with them."""
    environment = exact_match.make(extract=r"A:\s*(.*)")
    seen = differing = 0
    for row in lines("gsm8k/example_model_solutions.jsonl"):
        for given_ in row.values():
            if isinstance(given_, dict) and "solution" in given_:
                verdict = environment.verify(task(row["ground_truth"].rpartition("A: ")[2]), said(given_["solution"]))
                seen += 1
                differing += verdict["reward"] != float(given_["is_correct"])
    assert seen == 5276
    assert differing == 0


OPTIONS = [
    {"A": "Karyotyping"},
    {"B": "Polymerase Chain Reaction (PCR)"},
    {"C": "10^-4 eV"},
    {"D": "A cat"},
    {"E": "Entire"},
    {"I": "Iodine"},
]
B = "Polymerase Chain Reaction (PCR)"
LONG = "because " * 1000
CHOICES = [
    # text; the letters found by strict_single_letter_boxed, lenient_boxed, lenient_answer_colon, ..._md (. for none)
    ("B", "...."),
    ("(B)", "...."),
    ("The answer is B.", "...."),
    ("Answer: B", "..BB"),
    ("answer : b", "..BB"),
    ("Answer: B then\nAnswer: A", "...A"),
    ("Answer: B\nAnswer: A", "..BA"),
    ("Answer: A\nWait. \\boxed{B}", "BBAA"),
    ("Answer: \\boxed{B}", "BB.B"),
    ("Answer: \\text{\\text{ B }}", "..BB"),
    ("**Answer:** B because of the primers", "...B"),
    ("Answer: B, not A, since it copies", "...B"),
    ("Answer: A or B", "...."),
    ("Answer: (A/B)", "...."),
    ("Answer: polymerase  chain reaction (PCR)", "..B."),
    ("Answer: Z", "...."),
    ("Answer: Ｂ", "...B"),
    ("\\boxed{B}", "BB.."),
    ("\\boxed{b}", "...."),
    ("\\boxed{\\text{B}}", "BB.."),
    ("\\boxed{\\textbf{B}}", "...."),
    ("\\boxed{[B]}", "BB.."),
    ("\\boxed{\nB: its text\n}", "BB.."),
    ("\\boxed{B) " + B + "}", "BB.."),
    ("\\boxed{" + B + "}", ".B.."),
    ("\\boxed{Karyotyping and a cat}", "...."),
    ("\\boxed{A} no, \\boxed{B}", "BB.."),
    ("\\boxed{B} so the energy is \\boxed{42}", "...."),
    ("\\boxed{B} and \\boxed{B", "...."),
    ("\\boxed{A, B}", "...."),
    ("\\boxed{BB}", "...."),
    ("", "...."),
    ("<think>\\boxed{B} Answer: B</think> I do not know", "...."),
    ("<think>\\boxed{A}</think>\\boxed{B}", "BB.."),
    ("ABCDEFGH" * 1_250_000, "...."),
    ("Answer: B\n" + LONG + "\\boxed{A}" + LONG, "AABB"),
]


@pytest.mark.parametrize(("text", "found"), CHOICES, ids=range(len(CHOICES)))
def test_mcqa_reads_each_row_as_its_grading_mode_says(text: str, found: str) -> None:
    for mode, letter in zip(mcqa.MODES, found, strict=True):
        verdict = mcqa.make().verify(task(options=OPTIONS, expected_answer="B", grading_mode=mode), said(text))
        known = None if letter == "." else letter
        assert verdict == {"reward": float(letter == "B"), "extracted": known, "answered": known is not None}, mode
    without = mcqa.make().verify(task(options=OPTIONS, expected_answer="B"), said(text))
    assert without["extracted"] == (None if found[0] == "." else found[0]), "absent means the strictest mode"


def test_mcqa_modes_that_are_set_or_unknown() -> None:
    row = {"options": OPTIONS, "expected_answer": "B", "grading_mode": "lenient_boxed"}
    colon = mcqa.make(grading_mode="lenient_answer_colon")
    assert colon.verify(task(**row), said("Answer: B \n\\boxed{A}"))["reward"] == 1, "the environment's own mode wins"
    with pytest.raises(ValueError, match="'strict' is not known; there are: strict_single_letter_boxed, "):
        mcqa.make().verify(task(**{**row, "grading_mode": "strict"}), said("\\boxed{B}"))
    with pytest.raises(UsageError, match=r"'lenient_box' \(did you mean 'lenient_boxed'\?\)|'lenient_box'"):
        mcqa.make(grading_mode="lenient_box")
    for mode in mcqa.MODES:
        gold = mcqa.make().gold(task(**{**row, "grading_mode": mode}))
        assert mcqa.make(grading_mode=mode).verify(task(**row), said(gold or ""))["reward"] == 1


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"options": OPTIONS, "expected_answer": "B"}, None),
        ({"options": OPTIONS, "expected_answer": B}, None),
        ({"options": {k: v for option in OPTIONS for k, v in option.items()}}, "B"),
        ({"choices": ["Karyotyping", B]}, "B"),
        ({"choices": ["Karyotyping", B]}, B),
        ({}, "B"),
    ],
)
def test_mcqa_rows(row: dict[str, Any], answer: str | None) -> None:
    environment = mcqa.make()
    assert environment.gold(task(answer, **row)) == "\\boxed{B}"
    assert environment.verify(task(answer, **row), said("\\boxed{B}"))["reward"] == 1
    assert environment.verify(task(answer, **row), said("\\boxed{A}"))["reward"] == 0


def test_mcqa_row_pattern() -> None:
    row = {"options": OPTIONS, "expected_answer": "B", "template_metadata": {"output_regex": r"pick:\s*(\w[\w ^-]*)"}}
    environment = mcqa.make()
    assert environment.verify(task(**row), said("Pick: B\n\\boxed{A}"))["reward"] == 1, "it comes first, in any case"
    assert environment.verify(task(**row), said("Pick: A. No. Pick: b"))["reward"] == 1, "its last match counts"
    assert environment.verify(task(**row), said("Pick: z\n\\boxed{B}"))["extracted"] == "Z", "its letter is trusted"
    assert environment.verify(task(**row), said("PICK: a  Cat"))["extracted"] == "D", "or an option's text"
    assert environment.verify(task(**row), said("Pick: neither\n\\boxed{B}"))["reward"] == 1, "then the mode"
    several = {**row, "template_metadata": {"output_regex": ["(", "So ([A-E])", "is ([A-E])"]}}
    assert environment.verify(task(**several), said("It is A. So B."))["reward"] == 1
    assert environment.runs(task(**row)) == "process", "a pattern of the row's must run where it can be stopped"
    assert environment.runs(task(options=OPTIONS)) == "inline"
    assert mcqa.make(strict=True).verify(task(**row), said("Pick: A \\boxed{B}"))["reward"] == 1
    with pytest.raises(ValueError, match="expected_answer"):
        environment.verify(task(options=OPTIONS), said("B"))


@needs_data
def test_mcqa_agrees_with_nemo_gym() -> None:
    """Each rollout that NeMo Gym ships has the reward in its file, but for the one that answers `\\boxed{C: its text}`.

    The server of commit 07d6b0d gives that one 1; the file is of an earlier server, which gave 0.
    """
    tasks = {
        row["responses_create_params"]["input"][0]["content"]: row
        for name in ("", "_with_template_metadata")
        for row in lines(f"gym/resources_servers/mcqa/data/example{name}.jsonl")
    }
    ours, theirs = [], []
    for name in ("", "_with_template_metadata"):
        for row in lines(f"gym/resources_servers/mcqa/data/example_rollouts{name}.jsonl"):
            about = tasks[row["responses_create_params"]["input"][0]["content"]]
            theirs.append(row["reward"])
            ours.append(mcqa.make().verify(task(**about), said(output_text(row)))["reward"])
    differing = [number for number, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]
    assert differing == [2]
    assert ours[:5] == [0, 1, 1, 1, 1]


def test_math() -> None:
    pytest.importorskip("math_verify", reason="the extra 'math' is not installed")
    from rolloutops.environments import math

    table = [
        ("\\boxed{0.5}", "\\frac{1}{2}", 1),
        ("\\boxed{(x+1)^2}", "x^2+2x+1", 1),
        ("\\boxed{2,1}", "1,2", 1),
        ("so it is $32$", "32", 1),
        ("The answer is $\\sqrt{2}$", "\\(\\sqrt{2}\\)", 1),
        ("\\boxed{1,234}", "1234", 1),
        ("\\boxed{\\pi}", "3.14159265", 1),
        ("\\boxed{0.3333333}", "0.33333331", 1),
        ("\\boxed{0.333}", "0.3333333", 0),
        ("\\boxed{Algebra}", "Algebra", 1),
        ("\\boxed{18}", "9 times 2\n#### 18", 1),
        ("\\boxed{4} no, \\boxed{3}", "3", 1),
        ("\\boxed{3} no, \\boxed{4}", "3", 0),
        ("\\boxed{1,2,3}", "3", 0),
        ("<think>3</think> none", "3", 0),
        ("1e400", "1", 0),
        ("the answer is 1e400.", "1", 0),
        ("\\boxed{1e400}", "1e400", 1),
        ("\\boxed{1e999999999}", "1", 0),
        ("x" * 10_000_000, "1", 0),
        ("", "1", 0),
        ("nan", "1", 0),
        ("\\boxed{\\frac{1}{0}}", "1", 0),
        ("\\boxed{import os}", "1", 0),
    ]
    environment = math.make()
    environment.prepare()
    for text, gold, reward in table:
        assert environment.verify(task(gold), said(text))["reward"] == reward, (text[:80], gold)
        assert environment.verify(task(gold), said(environment.gold(task(gold)) or ""))["reward"] == 1, gold
    with pytest.raises(ValueError, match="no expected answer"):
        environment.verify(task(None), said("3"))


@needs_data
def test_math_agrees_with_nemo_gym() -> None:
    pytest.importorskip("math_verify", reason="the extra 'math' is not installed")
    from rolloutops.environments import math

    environment = math.make()
    environment.prepare()
    rollouts = 0
    for path in sorted((SHARED / "gym" / "environments").glob("pi_math/data/example*.jsonl")):
        for row in map(json.loads, path.read_text().splitlines()):
            gold = str(row["expected_answer"])
            assert environment.verify(task(gold), said(environment.gold(task(gold)) or ""))["reward"] == 1, gold
            if "response" in row:
                rollouts += 1
                assert environment.verify(task(gold), said(output_text(row)))["reward"] == row["reward"], gold
    assert rollouts == 5


def test_reasoning_gym() -> None:
    reasoning_gym = pytest.importorskip("reasoning_gym", reason="the extra 'tasks' is not installed")
    from rolloutops.environments import reasoning_gym as environments_reasoning_gym

    environment = environments_reasoning_gym.make()
    for name in ("chain_sum", "knights_knaves", "countdown", "rearc", "word_sorting", "simple_equations"):
        # A row has been JSON: tuples of the original have become lists.
        entry = json.loads(json.dumps(reasoning_gym.create_dataset(name, size=1, seed=1)[0], default=str))
        puzzle = task(entry["answer"], **entry)
        gold = environment.gold(puzzle)
        assert gold is not None
        assert environment.verify(puzzle, said(gold))["reward"] == 1, name
        assert environment.verify(puzzle, said(f"<think>{gold}</think>"))["reward"] < 0.1, name
        assert environment.verify(puzzle, said("<answer>no</answer>"))["reward"] < 1, name
        two = environment.verify(puzzle, said(f"<answer>no</answer> {gold}"))
        assert (two["reward"], two["task_name"]) == (1, name)
    with pytest.raises(ValueError, match="chain_sun', did you mean 'chain_sum'"):
        environment.verify(task("1", metadata={"source_dataset": "chain_sun"}), said("1"))
    with pytest.raises(ValueError, match="no 'metadata'"):
        environment.verify(task("1"), said("1"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<answer>3</answer> no, <answer> 4\n</answer>", "4"),
        ("\\boxed{9} <answer>4</answer>", "4"),
        ("\\boxed{4} and \\boxed{5}", "4"),
        ("\\boxed{\\text{4}}", "\\text{4"),
        ("<answer>4", "<answer>4"),
        ("<answer>no <answer>4</answer>", "no <answer>4"),
        ("<think>\\boxed{9}</think>  4 ", "4"),
        ("<answer></answer>\\boxed{4}", ""),
        ("", ""),
        ("<answer>" * 1_000_000, "<answer>" * 1_000_000),
    ],
    ids=range(10),
)
def test_reasoning_gym_finds_the_answer_where_nemo_gyms_server_does(text: str, found: str) -> None:
    from rolloutops.environments import reasoning_gym

    assert reasoning_gym._extracted(text) == found


@needs_data
def test_reasoning_gym_agrees_with_nemo_gym() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra 'tasks' is not installed")
    from rolloutops.environments import reasoning_gym

    environment = reasoning_gym.make()
    rewards = {}
    for agent in ("prime_agent", "nemo_fabric_deepagents"):
        folder = f"gym/environments/{agent}_reasoning_gym/data"
        tasks = {row["question"]: row for row in lines(f"{folder}/example.jsonl")}
        rewards[agent] = []
        for row in lines(f"{folder}/example_rollouts.jsonl"):
            prompt = row["responses_create_params"]["input"][-1]["content"]
            about = next(about for question, about in tasks.items() if prompt.startswith(question))
            verdict = environment.verify(task(**about), said(output_text(row)))
            rewards[agent].append((row["reward"], verdict["reward"]))
    assert rewards["prime_agent"] == [(1, 1)] * 5
    # NeMo Gym scored the reasoning along with the answer; in three rollouts only the right answer follows it.
    assert rewards["nemo_fabric_deepagents"] == [(0, 1)] * 3 + [(0, 0)] * 2


@pytest.mark.parametrize("name", ["math", "reasoning_gym"])
def test_a_missing_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rolloutops.config.plugins import find

    module = find("environment", name).load().__globals__
    monkeypatch.setitem(module, "find_spec", lambda name: None)
    extra = {"math": "math", "reasoning_gym": "tasks"}[name]
    with pytest.raises(MissingExtra, match=rf"environment '{name}' needs .* pip install 'rolloutops\[{extra}\]'"):
        find("environment", name).make({})


DOCUMENT = [
    "The lighthouse of Kell stands on the northern cape. It was built in 1887.",
    "Its keeper for 31 years was Marta Olsen, who wrote down each passing ship.",
    "The lamp burned whale oil at first. " + "It was often dim. " * 60 + "Since 1924 it has been electric.",
    "The harbour has 1,204 berths.",
]


def test_multi_step_needs_several_searches() -> None:
    environment = multi_step.make(passage_chars=300)
    state = environment.begin(task(document=DOCUMENT))
    first = environment.call("search_document", {"query": "who was the keeper"}, state)
    assert "Marta Olsen" in first
    assert "1887" not in first, "one search must not give everything"
    assert "1887" in environment.call("search_document", {"query": "when built"}, state)
    electric = environment.call("search_document", {"query": "electric lamp since"}, state)
    assert "1924" in electric
    assert len(electric) < 320
    assert "Nothing" in environment.call("search_document", {"query": "zebra"}, state)
    assert environment.begin(task(document="\n\n".join(DOCUMENT))) == state, "a text is cut at its blank lines"
    assert environment.begin(task(document=[])).best("anything", 1) == []


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("find", {"query": "x"}, "no tool 'find'; the only tool is search_document"),
        ("search_document", {"q": "x"}, "takes one argument"),
        ("search_document", {"query": 3}, "takes one argument"),
        ("search_document", {"query": " "}, "takes one argument"),
        ("search_document", "x", "takes one argument"),
    ],
)
def test_multi_step_tells_the_model_what_was_wrong(name: str, arguments: Any, told: str) -> None:
    environment = multi_step.make()
    with pytest.raises(ValueError, match=told):
        environment.call(name, arguments, environment.begin(task(document=DOCUMENT)))


FACTS = ["1887", "Marta Olsen", ["1204 berths", "1,204 places"]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Built in 1887; kept by **Marta  Olsen**; it has 1,204 berths.", 3),
        ("built in 1887, marta\nolsen, 1204 places", 3),
        ("1887", 1),
        ("18871, 21887, 1887.5, 0.1887", 0),
        ("Martha Olsen", 0),
        ("<think>1887 Marta Olsen 1204 berths</think> I do not know", 0),
        ("", 0),
        ("x " * 3000 + "1887 Marta Olsen 1204 berths", 0),
    ],
)
def test_multi_step_reward(text: str, found: int) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "search_document", "arguments": "{}"}}
    rollout = Rollout([{"role": "assistant", "content": "", "tool_calls": [call, call]}, *said(text).completion], text)
    verdict = multi_step.make().verify(task(document=DOCUMENT, expected_answer=FACTS), rollout)
    assert verdict["reward"] == pytest.approx(found / 3)
    assert (verdict["facts_found"], verdict["facts_total"], verdict["searches"]) == (found, 3, 2)
    assert len(verdict["missing"]) == 3 - found


def test_multi_step_gold_and_mistakes() -> None:
    environment = multi_step.make()
    for answer in (FACTS, "1887", 1887, [1887, "Marta Olsen"]):
        about = task(document=DOCUMENT, expected_answer=answer)
        assert environment.verify(about, said(environment.gold(about) or ""))["reward"] == 1
    assert environment.gold(task(expected_answer=[])) is None
    with pytest.raises(ValueError, match="expected_answer"):
        environment.verify(task(expected_answer=[]), said("x"))
    with pytest.raises(ValueError, match="'document' must be"):
        environment.begin(task(document=3))
    with pytest.raises(UsageError, match="max_results must be at least 1"):
        multi_step.make(max_results=0)


@given(st.text(alphabet="\\boxed{}fx 1"))
def test_boxes_and_bare_take_any_text(text: str) -> None:
    for content in answers.boxes(text):
        assert content
        assert content in text
    assert answers.bare(answers.bare(text)) == answers.bare(text)
