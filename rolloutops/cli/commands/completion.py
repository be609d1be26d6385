"""`completion`: a script that completes commands and flags in bash, zsh or fish."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rolloutops.cli.flags import Command, Flag, Parsed

ABOUT = """
For bash or zsh, add the line to the file in its comment; for fish, run the last line.

    eval "$(rolloutops completion bash)"                                   # in ~/.bashrc
    eval "$(rolloutops completion zsh)"                                    # in ~/.zshrc, after compinit
    rolloutops completion fish > ~/.config/fish/completions/rolloutops.fish
"""


def command(commands: Callable[[], Sequence[Command]]) -> Command:
    """Declare the command. commands: all of the program, from which the script is made."""

    def body(parsed: Parsed) -> None:
        from rolloutops.cli import completion

        write = {"bash": completion.bash, "zsh": completion.zsh, "fish": completion.fish}
        print(write[parsed.positionals["shell"]](commands(), "rolloutops"), end="")

    return Command(
        "completion",
        body,
        "Print a script that completes commands and flags in your shell",
        positionals=(Flag("shell", str, "the shell", choices=("bash", "zsh", "fish"), required=True),),
        about=ABOUT,
        group="Inspect and set up",
    )
