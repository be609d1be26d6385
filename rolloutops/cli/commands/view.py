"""`view`: the pages of a workspace, or of a file, in the browser."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import quote

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say, show
from rolloutops.cli.shared_flags import DATA
from rolloutops.cli.which_recipe import plan_of
from rolloutops.config.paths import as_path
from rolloutops.errors import UsageError
from rolloutops.layout import count, verb

if TYPE_CHECKING:
    from rolloutops.view.viewer import Viewer

PORT = 7655
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN = 16

ABOUT = """
The pages show rollouts, conversations, tasks, comparisons, failures, the running collection and builds. They are served
to this machine only. The workspace is only read, except for labels. If the workspace is on a remote
machine, run the printed ssh command on your own machine and open the link there. Stop with Ctrl-C.
"""


def body(parsed: Parsed) -> int:
    """Serve the pages until it is interrupted."""
    import asyncio

    from rolloutops.view.guard import Access
    from rolloutops.view.server import listen, serve

    flags = parsed.flags
    host = flags.get("host", LOOPBACK[0])
    access = Access(flags["token"]) if "token" in flags else Access()
    if host not in LOOPBACK:
        if len(flags.get("token", "")) < SHORTEST_TOKEN:
            raise UsageError(
                f"--host={host} lets other machines read the rollouts: add --token=TEXT, a secret of at least "
                f"{SHORTEST_TOKEN} characters, or leave --host out and use ssh -L"
            )
        access = Access(access.token, frozenset({host.lower(), socket.gethostname().lower()}))
    with listen(host, flags.get("port", PORT)) as opened, _viewer(parsed) as viewer:
        port = opened.getsockname()[1]
        page = "/" if viewer.moment.rollouts or viewer.file is None else f"/builds?path={quote(str(viewer.file))}"
        name = f"[{host}]" if ":" in host else host
        link = f"http://{name}:{port}{page}{'&' if '?' in page else '?'}token={access.token}"

        def ready() -> None:
            show(link)
            sys.stdout.flush()
            if host in LOOPBACK:
                machine = socket.gethostname()
                say(f"on another machine: ssh -L {port}:127.0.0.1:{port} {machine}, then open the link there")
            if flags.get("open", _has_browser()):
                webbrowser.open(link)

        asyncio.run(serve(viewer, access, opened, ready))
    return 0


@contextmanager
def _viewer(parsed: Parsed) -> Iterator[Viewer]:
    """Open what is viewed: a workspace, or a file in a folder that is gone in the end."""
    from rolloutops.store.workspace import open_workspace
    from rolloutops.view.file import import_file
    from rolloutops.view.viewer import Viewer

    name = parsed.flags.get("tokenizer", "")
    tokenizer = str(as_path(name)) if name and as_path(name).is_dir() else name
    named = parsed.positionals.get("recipe")
    file = as_path(named) if named is not None else None
    if file is None or file.suffix in ("", ".toml") or not file.is_file():
        plan = plan_of(parsed)
        yield Viewer(open_workspace(plan.data), plan, tokenizer=tokenizer)
        return
    with TemporaryDirectory(prefix="rolloutops-view-") as folder:
        workspace, plan, left_out = import_file(file, Path(folder))
        if left_out:
            lines = count(left_out, "line")
            say(f"{lines} of {file} {verb(left_out, 'are')} not a rollout of a known format: see the page Lines")
        yield Viewer(workspace, plan, file, tokenizer)


def _has_browser() -> bool:
    """Whether the person at the terminal has a screen on this machine."""
    screen = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    return sys.stdout.isatty() and screen and "SSH_CONNECTION" not in os.environ


COMMAND = Command(
    "view",
    body,
    "View rollouts in the browser",
    (
        DATA,
        Flag("port", int, "the port; 0: any free one", PORT),
        Flag("host", str, "the address to listen on; an address that other machines reach needs --token", LOOPBACK[0]),
        Flag("token", str, "the secret in the link (default: a new one each time)"),
        Flag(
            "tokenizer",
            str,
            "a model's folder, or its name in the Hugging Face cache, to show training lines as tokens (default: the "
            "folder of the recipe's vLLM model)",
        ),
        Flag("open", bool, "open the browser (default: if there is a display)"),
    ),
    (
        Flag(
            "recipe",
            str,
            "recipe file or shipped recipe name (default: the one last used with this workspace), or a file of "
            "rollouts or training lines",
        ),
    ),
    about=ABOUT,
    group="Inspect and set up",
)
