"""Chains of shipped steps made by hypothesis: what a recipe may ask, from filters to a training file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hypothesis import strategies as st

from rolloutops.config.resources import shipped

Settings: TypeAlias = dict[str, Any]
"""The parameters of a step, as a recipe gives them."""

BENCHMARK = str(Path(__file__).parent / "sql/filter/decontaminate/benchmark.jsonl")


def of(**values: Sequence[Any]) -> st.SearchStrategy[Settings]:
    """Settings, each of which is there or not."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(some) for name, some in values.items()})


SHORT: st.SearchStrategy[Settings] = st.sampled_from(
    [{"on_shortage": "repeat", "max_copies": 1000}, {"on_shortage": "shrink"}]
)
BOUNDS = of(min_reward=[-1.0, 0.0, 0.5], max_reward=[0.5, 1.0])
PAIRING: dict[str, Sequence[Any]] = {
    "min_margin": [0.0, 0.3, 0.5],
    "pairs_per_task": [1, 2],
    "max_length_gap": [0.5, 1.0],
    "same_policy": [True],
    "ties": ["seed", "first", "shortest"],
}


def shared(name: str, values: Sequence[Any]) -> st.SearchStrategy[Settings]:
    """Settings of a mix that names datasets: mostly those that there are."""
    return st.dictionaries(st.sampled_from("dde"), st.sampled_from(values), min_size=1).map(
        lambda of_each: {name: of_each}
    )


def both(*parts: st.SearchStrategy[Settings]) -> st.SearchStrategy[Settings]:
    return st.tuples(*parts).map(lambda some: {key: value for one in some for key, value in one.items()})


STEPS: dict[str, st.SearchStrategy[Settings]] = {
    "filter/best_of_n": of(per_task=[1, 2], same_policy=[True], ties=["first", "shortest"]),
    "filter/contiguous": of(log_probs=[True]),
    "filter/decontaminate": st.just({"files": [BENCHMARK]}),
    "filter/difficulty": of(hard=[0.5, 1.0], easy=[0.5]),
    "filter/exact_duplicates": of(per=["task"], compare=["text"]),
    "filter/finished": of(),
    "filter/gopher_repetition": of(),
    "filter/labels": of(drop=[["x"]], unlabeled=["keep", "drop"]),
    "filter/length": of(max_completion=[5, 40], min_completion=[2]),
    "filter/length_outliers": of(low=[0.2], high=[0.8], unit=["characters"]),
    "filter/majority": of(min_share=[0.3], only_majority=[True]),
    "filter/mask_sample": of(),
    "filter/near_duplicates": of(keep_all=[True]),
    "filter/only": of(datasets=[["d"], ["d", "e"]], policies=[["p"], []]),
    "filter/repetition": of(sentences_in_row=[2]),
    "filter/reward": BOUNDS,
    "filter/reward_quantile": of(low=[0.0, 0.5], per=["dataset", "task"]),
    "filter/solve_rate": of(low=[0.0], high=[0.6, 1.0], strict=[True]),
    "filter/think_tags": of(required=[True]),
    "filter/tool_errors": of(),
    "filter/zero_variance": of(tolerance=[0.2], keep_single=[True]),
    "reward/advantage": of(formula=["grpo_batch", "rloo", "dr_grpo", "maxrl", "grpo_passk", "open_instruct"]),
    "reward/components": st.just({"weights": {"reward": 1.0, "length": 0.1}}),
    "reward/overlong": st.just({"max_tokens": 10, "buffer": 5}),
    "reward/scale": of(from_min=[-1.0], to_min=[-1.0], to_max=[2.0], weights=[{"d": 0.5}]),
    "reward/truncated": of(coefficient=[0.5]),
    "reward/weighted_sum": st.just({"weights": {"reward": 1.0, "length": -0.01}}),
    "reward/z_score": of(by_policy=[True]),
    "mix/cells": of(cells=[["task_id"], ["agent", "policy"]], per_cell=[1, 3]),
    "mix/copies": shared("copies", [0.5, 1.0, 2.5]),
    "mix/counts": both(shared("counts", [1, 3, 20]), SHORT),
    "mix/max_share": of(max_share=[0.5, 0.6]),
    "mix/shares": both(
        st.sampled_from([{"shares": {"d": 0.7, "e": 0.3}}, {"shares": {"d": 1.0}}]), of(rows=[7, 30]), SHORT
    ),
    "mix/temperature": both(of(rows=[7, 30], temperature=[1.0, 3.0], max_size=[2]), SHORT),
    "mix/tokens": both(shared("tokens", [40, 400]), SHORT),
    "mix/unimax": of(rows=[7, 60], max_epochs=[1.0, 2.5]),
    "pair/adjacent": of(**PAIRING),
    "pair/all": of(**{name: values for name, values in PAIRING.items() if name != "ties"}),
    "pair/best_random": of(**PAIRING),
    "pair/best_second": of(**{name: values for name, values in PAIRING.items() if name != "pairs_per_task"}),
    "pair/best_worst": of(**PAIRING),
    "pair/by_policy": both(st.just({"chosen_policy": "p", "rejected_policy": "q"}), of(min_margin=[0.0, 0.5])),
}
OF_PAIRS = {
    *("dpo_messages", "dpo_strings", "llamafactory_preference", "ms_swift_preference", "openai_preference", "openrlhf"),
    *("axolotl_preference", "preference_binary", "preference_ranked", "reward_model", "tinker"),
}
BUILDS = sorted(f"build/{path.stem}" for path in (shipped("sql") / "build").glob("*.sql"))
PAIR_BUILDS = [name for name in BUILDS if name.removeprefix("build/") in OF_PAIRS]
PLAIN_BUILDS = [name for name in BUILDS if name not in PAIR_BUILDS]


def drawn(*kinds: str) -> st.SearchStrategy[tuple[str, Settings]]:
    """A shipped step of one of these kinds, with settings."""
    names = [name for name in STEPS if name.partition("/")[0] in kinds]
    return st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), STEPS[name]))


BEFORE = st.lists(drawn("filter", "reward", "mix"), max_size=2)
ASKED = both(
    st.just({"allow_empty": True, "drop_invalid": True}),
    of(validation=[0.3], test=[0.3], seed=[7], max_shard_rows=[2], format=["jsonl", "parquet"], drop_invalid=[False]),
)
AFTER: st.SearchStrategy[list[tuple[str, Settings]]] = st.one_of(
    st.just([]), st.just([]), st.just([]), st.tuples(drawn("filter", "reward")).map(list)
)
"""What follows a pair step: a filter may well leave half a pair, and is then refused."""

CLUSTERED: list[tuple[str, Settings]] = [("filter/near_duplicates", {"keep_all": True})]
SPLIT: st.SearchStrategy[Settings] = st.just({"validation": 0.3, "test": 0.3})
PAIRED: st.SearchStrategy[Any] = st.tuples(
    BEFORE, st.builds(lambda pair, more: [pair, *more], drawn("pair"), AFTER), st.sampled_from(PAIR_BUILDS), ASKED
)
CHAINS: st.SearchStrategy[Any] = st.one_of(
    PAIRED,
    st.tuples(BEFORE, st.just([]), st.sampled_from(PLAIN_BUILDS), ASKED),
    st.tuples(st.just(CLUSTERED), st.just([]), st.sampled_from(PLAIN_BUILDS), both(ASKED, SPLIT)),
)
"""(steps before pairs, a pair step and what follows it, build, what the recipe asks of the build)."""
