"""Shell completion: what docs/completion.md says is what works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import PROJECT, child

DOCUMENT = PROJECT / "docs" / "completion.md"


@pytest.fixture
def btor_on_path(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``btor`` is a command."""
    command = tmp_path / "bin" / "btor"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m btor "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PYTHONPATH": str(PROJECT), "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}"}


def complete(shell: str, words: str, index: int) -> list[str]:
    """What btor answers to a shell that asks how to go on."""
    word = words.split()[index] if shell == "fish" else str(index)  # fish names the word, the others count
    env = {"_BTOR_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": word}
    ended = child([], env=env)
    assert (ended.status, ended.err) == (0, "")
    return ended.out.split("\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_documented_shell_gets_its_script(shell: str) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert f"_BTOR_COMPLETE={shell}_source btor" in document
    ended = child([], env={"_BTOR_COMPLETE": f"{shell}_source"})
    assert (ended.status, ended.err) == (0, "")
    assert f"_BTOR_COMPLETE={shell}_complete" in ended.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_commands_and_options_are_completed(shell: str) -> None:
    answer = "\n".join(complete(shell, "btor do", 1))
    assert "download" in answer
    assert "seed" not in answer
    answer = "\n".join(complete(shell, "btor download --max-", 2))
    assert "--max-download" in answer
    assert "--max-peers" in answer
    assert "--seed-ratio" not in answer


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("btor download to", "file"),
        ("btor download a.torrent to", "file"),
        ("btor download a.torrent -o to", "file"),
        ("btor download a.torrent -d to", "dir"),
        ("btor download a.torrent --state-dir to", "dir"),
        ("btor info to", "file"),
        ("btor magnet to", "file"),
        ("btor verify to", "file"),
        ("btor verify a.torrent to", "file"),
        ("btor seed to", "file"),
        ("btor seed a.torrent to", "file"),
        ("btor create to", "file"),
        ("btor create a -o to", "file"),
        ("btor swarm to", "file"),
        ("btor info --log-file to", "file"),
    ],
)
def test_file_names_are_left_to_the_shell(words: str, kind: str) -> None:
    index = len(words.split()) - 1
    assert complete("bash", words, index) == [f"{kind},to", ""]
    assert complete("fish", words, index) == [f"{kind},to", ""]
    assert complete("zsh", words, index)[:2] == [kind, "to"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes_file_names(btor_on_path: dict[str, str]) -> None:
    """Outside a completion compopt refuses to work; what it is told is what bash goes on with."""
    script = """
eval "$(_BTOR_COMPLETE=bash_source btor)"
compopt() { echo compopt "$@"; }
for words in 'btor info to' 'btor download x -d to'; do
    COMP_WORDS=($words); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    _btor_completion btor to x
    echo "${#COMPREPLY[@]}"
done
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=btor_on_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stderr, done.stdout) == ("", "compopt -o default\n0\ncompopt -o dirnames\n0\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes(btor_on_path: dict[str, str]) -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    line = re.search(r'^eval "\$\(_BTOR_COMPLETE=bash_source btor\)"$', document, re.MULTILINE)
    assert line is not None
    script = f"""
{line[0]}
COMP_WORDS=(btor ver); COMP_CWORD=1
_btor_completion btor ver btor
printf '%s\\n' "${{COMPREPLY[@]}}"
complete -p btor
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=btor_on_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "verify"
    assert "_btor_completion btor" in done.stdout
