"""The event loop of collect and verify: uvloop's where it is installed, else asyncio's own. Both do the same."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in a new event loop and return its result."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Make uvloop's loop, or asyncio's where uvloop is not there, as on Windows."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


@contextmanager
def on_interrupt(call: Callable[[], None]) -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM call something in the running loop."""
    # Python lets only the main thread handle signals; in a notebook a collection runs in another one.
    main = threading.current_thread() is threading.main_thread()
    signals = (signal.SIGINT, signal.SIGTERM) if main else ()
    loop = asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
