"""Environments: what is asked of a policy and how the result is verified.

An environment is made by a factory `factory(**settings)`, looked up by name or `package.module:attr` (`plugins.py`).
Only `verify` is needed; the rest is optional and looked up with `getattr`:

    tools          canonical chat tools that are offered where a task brings none
    begin(task)    the state of one rollout, handed to each tool call
    call(name, arguments, state)   run one tool: text (or anything JSON) for the model; what it raises goes to the model
    verify(task, rollout)          the reward as a float, or a dict with "reward" and any other fields; where it could
                   not judge, it raises, or returns a dict with "reward" None and a text under "error"
    gold(task)     the text of an answer that must score 1.0, or None where the task has none
    runs           how verify runs: "inline", "process" or "async" (see `Environment`); or a function of the task that
                   returns it. `cpu_bound = True` of earlier versions is "process"
    pure           True: equal task and rollout give an equal verdict, so it may be taken from a cache
    spends         True: a verdict costs money or quota. Changed code or settings then verify rollouts again only on the
                   command `verify`
    prepare()      called once in each process that verifies, before its first verdict: import what is heavy
    preflight()    called once, before the first verdict: raise RolloutopsError where it cannot judge on this machine
    longest        seconds that verify may take by its own limits: no shorter limit is put on it from outside
    parallel       verdicts of a coroutine verify that run at once; waiting for a turn is not part of its time
    close()        called once after the last verdict, where verify is a coroutine function: close connections

`call`, `verify` and `close` may be coroutine functions. A public name that is nearly one of these is an
error (`hooks.py`).
"""

from rolloutops.types import Environment, Rollout, Task

__all__ = ["Environment", "Rollout", "Task"]
