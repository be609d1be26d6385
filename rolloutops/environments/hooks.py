"""The names that an environment may have for rolloutops to use, and the check that none of them is misspelt.

All but `verify` are optional and looked up by name, so a `cpubound = True` or a `def golden` would do nothing, and
nobody would know.
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from rolloutops.errors import UsageError

METHODS = ("verify", "begin", "call", "gold", "prepare", "preflight", "close")
"""Hooks that are called."""

VALUES: dict[str, type | tuple[type, ...]] = {
    "tools": (list, tuple),
    "cpu_bound": bool,
    "pure": bool,
    "spends": bool,
    "longest": (int, float),
    "parallel": int,
}
"""Hooks that are read, and what they are; `cpu_bound` may be a method as well."""

SIMILAR, MORE_SIMILAR = 0.8, 0.9
"""How like a hook (difflib's ratio) a name is that is taken for a misspelt one: with the same first letter, and with
another, so that a helper named `recall` is not taken for `call`."""


def refuse_misspelt_hooks(name: str, environment: Any) -> None:
    """Raise UsageError where an environment has no verify, or a public name that is nearly that of a hook it lacks."""
    known = {attribute for attribute in dir(environment) if not attribute.startswith("_")}
    for attribute in sorted(known.difference(METHODS, VALUES)):
        hook = next((hook for hook in (*METHODS, *VALUES) if hook not in known and _alike(attribute, hook)), None)
        if hook is not None and _is_of_kind(inspect.getattr_static(environment, attribute, None), hook):
            raise UsageError(
                f"environment {name!r} has {attribute!r}, which means nothing to rolloutops, did you mean {hook!r}? "
                f"If not, give it another name, as _{attribute}"
            )
    if not callable(getattr(environment, "verify", None)):
        raise UsageError(f"environment {name!r} has no method verify(task, rollout), which every environment needs")


def _alike(attribute: str, hook: str) -> bool:
    plain = attribute.lower().replace("_", "")
    ratio = difflib.SequenceMatcher(None, plain, hook.replace("_", "")).ratio()
    return ratio >= (SIMILAR if plain[:1] == hook[0] else MORE_SIMILAR)


def _is_of_kind(value: Any, hook: str) -> bool:
    """Whether a value could be meant as a hook: what an environment keeps for itself may have any name."""
    method = callable(value) or isinstance(value, classmethod | staticmethod)
    if hook in METHODS:
        return method
    if isinstance(value, property) or (method and hook == "cpu_bound"):
        return True
    return isinstance(value, VALUES[hook]) and (VALUES[hook] is bool or not isinstance(value, bool))
