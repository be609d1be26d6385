"""`view`: the pages of a workspace in the browser."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser

from rolloutops.cli.flags import Command, Flag, Parsed
from rolloutops.cli.printing import say, show
from rolloutops.cli.shared_flags import DATA
from rolloutops.cli.which_recipe import plan_of
from rolloutops.errors import UsageError

PORT = 7655
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN = 16

ABOUT = """
The pages show rollouts, conversations, tasks, comparisons, failures, the running collection and builds. They are served
to this machine only, read the workspace and never change it. On a remote machine, run the printed ssh command on your
own one and open the link there. Stop with Ctrl-C.
"""


def body(parsed: Parsed) -> int:
    """Serve the pages until it is interrupted."""
    import asyncio

    from rolloutops.store.workspace import open_workspace
    from rolloutops.view.guard import Access
    from rolloutops.view.server import listen, serve
    from rolloutops.view.viewer import Viewer

    flags = parsed.flags
    host, access = flags.get("host", LOOPBACK[0]), Access()
    if host not in LOOPBACK:
        token = flags.get("token", "")
        if len(token) < SHORTEST_TOKEN:
            raise UsageError(
                f"--host={host} lets other machines read the rollouts: add --token=TEXT, a secret of at least "
                f"{SHORTEST_TOKEN} characters, or leave --host out and use ssh -L"
            )
        access = Access(token, frozenset({host.lower(), socket.gethostname().lower()}))
    elif "token" in flags:
        access = Access(flags["token"])
    plan = plan_of(parsed)
    workspace = open_workspace(plan.data)
    opened = listen(host, flags.get("port", PORT))
    port = opened.getsockname()[1]
    viewer = Viewer(workspace, plan)
    link = f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={access.token}"

    def ready() -> None:
        show(link)
        sys.stdout.flush()
        if host in LOOPBACK:
            say(f"on another machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}, then open the link there")
        if flags.get("open", _has_browser()):
            webbrowser.open(link)

    asyncio.run(serve(viewer, access, opened, ready))
    return 0


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
        Flag("port", int, "the port; 0 takes any free one", PORT),
        Flag("host", str, "the address to listen on; another than this machine's own needs --token", LOOPBACK[0]),
        Flag("token", str, "the secret in the link (default: a new one each time)"),
        Flag("open", bool, "open the browser (default: where there is a screen)"),
    ),
    (Flag("recipe", str, "recipe file or shipped recipe name (default: the one last used with this workspace)"),),
    about=ABOUT,
    group="looking",
)
