"""Shell completion: scripts for bash, zsh and fish, made of the table of commands and flags. Nothing here prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rolloutops.cli.flags import Command, Flag, members, plain

BASH = """\
# Completion of {program} for bash: put `eval "$({program} completion bash)"` into ~/.bashrc
_{program}() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} flags="" words=""
    COMPREPLY=()
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$cur"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$flags --help" -- "$cur"))
        [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} != *[=.] ]] || compopt -o nospace
    elif [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
    else
        [[ $cur == = ]] && cur=""
        compopt -o filenames
        local IFS=$'\\n'
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}}
complete -F _{program} {program}
"""

ZSH = """\
#compdef {program}
# Completion of {program} for zsh: put `eval "$({program} completion zsh)"` into ~/.zshrc, after compinit
_{program}() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe -t commands command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{cases}
    esac
}}
compdef _{program} {program}
"""


def bash(commands: Sequence[Command], program: str) -> str:
    """Write the script for bash."""
    cases = [
        f'        {one.name}) flags="{" ".join(_flags(one))}" words="{" ".join(_words(one, commands))}" ;;'
        for one in commands
    ]
    return BASH.format(program=program, commands=" ".join(_names(commands)), cases="\n".join(cases))


def zsh(commands: Sequence[Command], program: str) -> str:
    """Write the script for zsh."""
    names = [f"        {_quoted(f'{one.name}:{one.summary}')}" for one in commands]
    cases = [f"        {one.name}) _arguments {' '.join(_zsh_words(one, commands))} ;;" for one in commands]
    return ZSH.format(program=program, commands="\n".join(names), cases="\n".join(cases))


def fish(commands: Sequence[Command], program: str) -> str:
    """Write the script for fish."""
    return "\n".join(_fish_lines(commands, program)) + "\n"


def _fish_lines(commands: Sequence[Command], program: str) -> Iterator[str]:
    yield f"# Completion of {program} for fish: {program} completion fish > ~/.config/fish/completions/{program}.fish"
    for one in commands:
        yield f"complete -c {program} -f -n __fish_use_subcommand -a {one.name} -d {_quoted(one.summary)}"
    for one in commands:
        seen = f"complete -c {program} -n '__fish_seen_subcommand_from {one.name}'"
        for flag in one.flags:
            value = "" if _is_switch(flag) else " -r"
            name = f"no-{flag.name}" if _is_switch(flag) and flag.default is True else flag.name
            yield f"{seen} -l {name}{value} -d {_quoted(flag.help)}"
        if words := _words(one, commands):
            yield f"{seen} -f -a {_quoted(' '.join(words))}"


def _names(commands: Sequence[Command]) -> list[str]:
    return [one.name for one in commands]


def _is_switch(flag: Flag) -> bool:
    """Whether a flag is written without a value."""
    return [plain(member) for member in members(flag.type)] == [bool]


def _flags(command: Command) -> Iterator[str]:
    """The flags of a command as they are typed: `--json`, `--no-cache`, `--data=`, `--engine_args.`"""
    for flag in command.flags:
        switch = _is_switch(flag)
        yield f"--{'no-' if switch and flag.default is True else ''}{flag.name}{'' if switch else '='}"
    yield from (f"--{table}." for table in command.open_tables)


def _words(command: Command, commands: Sequence[Command]) -> list[str]:
    """The words that a command's argument may be; none where it is a file."""
    if command.name == "help":
        return _names(commands)
    return [choice for flag in command.positionals for choice in flag.choices]


def _zsh_words(command: Command, commands: Sequence[Command]) -> Iterator[str]:
    """The specifications that `_arguments` takes."""
    for flag, typed in zip(command.flags, _flags(command), strict=False):
        about = flag.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
        yield _quoted(f"{typed}[{about}]" + ("" if _is_switch(flag) else ":value:_files"))
    words = _words(command, commands)
    if words or command.positionals:
        yield _quoted(f"*:argument:({' '.join(words)})" if words else "*:file:_files")


def _quoted(text: str) -> str:
    """A text in single quotes, for any of the shells."""
    return "'" + text.replace("'", "'\\''") + "'"
