"""Engines: who answers. A policy engine answers one model call, a rollout engine a whole rollout.

An engine is made by a factory `factory(model, **engine_args)`, looked up by name or `package.module:attr`
(`plugins.py`). Errors of one call are raised as `AttemptFailed`, an engine that cannot start or died as `EngineError`.
"""

from rolloutops.types import Engine, Limits, Message, ModelAnswer, ModelCall, RolloutAnswer, RolloutEngine

__all__ = ["Engine", "Limits", "Message", "ModelAnswer", "ModelCall", "RolloutAnswer", "RolloutEngine"]
