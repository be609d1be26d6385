"""Sums: the reward is 1 if the last number in the answer is correct, and `near` if it is off by one."""

import re


class Sums:
    """The environment. A recipe uses it with `environment = "environment.py"`."""

    def __init__(self, near: float) -> None:
        self.near = near

    def verify(self, task, rollout):
        """Return the reward; each further number becomes a metric: metrics['distance'] in SQL."""
        numbers = re.findall(r"-?\d+", rollout.text)
        if not numbers:
            return {"reward": 0.0}
        distance = abs(int(numbers[-1]) - int(task.answer))
        return {"reward": 1.0 if distance == 0 else self.near if distance == 1 else 0.0, "distance": distance}

    def gold(self, task):
        """Return a correct answer, which `rolloutops check` expects to get reward 1."""
        return f"Answer: {task.answer}"


def make(near: float = 0.0):
    """near: the reward of an answer that is off by one."""
    return Sums(near)
