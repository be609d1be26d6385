"""Of a recipe's steps, a build that is asked for alone runs those that lead to it."""

from rolloutops.config.recipe import StepUse
from rolloutops.steps.needed import needed

STEPS = [
    StepUse("filter", "hard", "filter/difficulty"),
    StepUse("pair", "best", "pair/best_worst"),
    StepUse("build", "dpo", "build/dpo_messages"),
    StepUse("mix", "some", "mix/counts", start="rollouts"),
    StepUse("build", "sft", "build/sft_messages"),
    StepUse("build", "rl", "build/rl_gym", start="hard"),
]


def test_only_the_steps_that_lead_to_a_build_are_needed():
    def led(*builds: str) -> list[tuple[str, str | None]]:
        return [(use.name, use.start) for use in needed(STEPS, builds)]

    assert led("dpo") == [("hard", "rollouts"), ("best", "hard"), ("dpo", "best")]
    assert led("sft") == [("some", "rollouts"), ("sft", "some")]
    assert led("rl") == [("hard", "rollouts"), ("rl", "hard")]
    assert [name for name, _ in led("dpo", "sft", "rl")] == [use.name for use in STEPS]


def test_a_build_of_all_rollouts_needs_no_step():
    alone = [StepUse("build", "all", "build/sft_messages"), *STEPS]
    assert needed(alone, ["all"]) == [StepUse("build", "all", "build/sft_messages", start="rollouts")]
