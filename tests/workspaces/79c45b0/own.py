"""An environment of a user's own."""

from own_words import right


class Own:
    """Compares the last word."""

    def __init__(self, bonus):
        self.bonus = bonus

    def verify(self, task, rollout):
        return 1.0 + self.bonus if right(task, rollout) else 0.0


def make(bonus=0.0):
    return Own(bonus)
