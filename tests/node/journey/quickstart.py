"""docs/quickstart.md as a reader follows it: its commands, in one shell and in order, and what it says they print."""

import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from harness.parts import REPOSITORY, Failed

from .release import left
from .stage import Stage, require

PAGE = "docs/quickstart.md"
# The page asks for these two; a node without a registry has them under other names than it proposes.
IMAGES = {"POSTERN_IMAGE": "localhost/postern", "PYTHON_IMAGE": "localhost/agent:1"}
SECONDS = 240  # for one block; the longest waits for images, which are there


@dataclass
class Block:
    """Commands that stand together, and what is shown to come of them, if anything is."""

    line: int
    commands: str
    shown: str | None = None


def blocks(page: str) -> list[Block]:
    """An output belongs to the commands above it."""
    found: list[Block] = []
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        language, text = fence.groups()
        line = page.count("\n", 0, fence.start()) + 1
        if language == "sh":
            found.append(Block(line, text))
            continue
        require(language in ("text", "json"), f"{PAGE}:{line}: what is a block of '{language}'?")
        require(found and found[-1].shown is None, f"{PAGE}:{line}: an output without commands above it")
        found[-1].shown = text
    return found


def as_shown(shown: str, printed: str) -> bool:
    """`...` stands for what differs, within its line."""
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip()) is not None


class Shell:
    """The reader's: what one block defines is there for the next."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        tools = [str(stage.kube.kubectl.parent), str(stage.kube.helm_binary.parent)]
        path = os.pathsep.join([*tools, os.environ["PATH"]])
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=REPOSITORY,
            env={**stage.kube.environment, **IMAGES, "PATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )
        # Each command that fails counts, as it does for who reads the page: not the last one of a block alone.
        self.say("set -E; trap 'failed=$?' ERR")

    def say(self, line: str) -> None:
        assert self.process.stdin
        print(line, file=self.process.stdin)

    def run(self, block: Block) -> tuple[bool, str]:
        """Whether all of its commands did it, and what they printed."""
        assert self.process.stdout
        commands, printed = self.folder / f"{block.line}.sh", self.folder / f"{block.line}.out"
        commands.write_text(block.commands)
        timer = threading.Timer(SECONDS, self.end)
        timer.start()
        self.say(f"failed=0; . {commands} >{printed} 2>&1 </dev/null; echo $failed")
        answer = self.process.stdout.readline().strip()
        timer.cancel()
        text = printed.read_text()
        if not answer:
            raise Failed(f"{PAGE}:{block.line}: no end within {SECONDS} s:\n{block.commands}{text}")
        return answer == "0", text

    def end(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)


def follow(shell: Shell, page: list[Block]) -> None:
    for block in page:
        done, printed = shell.run(block)
        # A command that has to fail is one whose output the page shows.
        if block.shown is None and not done:
            raise Failed(f"{PAGE}:{block.line}: failed:\n{block.commands}it printed:\n{printed}")
        if block.shown is not None and not as_shown(block.shown, printed):
            raise Failed(f"{PAGE}:{block.line}: shown:\n{block.shown}printed:\n{printed}")


def quickstart(stage: Stage) -> None:
    """the commands of docs/quickstart.md do and print what it says, and leave nothing"""
    page = blocks((REPOSITORY / PAGE).read_text())
    shown = sum(block.shown is not None for block in page)
    require(len(page) > 8 and shown > 3, f"{len(page)} blocks of commands, and {shown} outputs, were found")
    shell = Shell(stage, stage.work / "quickstart")
    try:
        follow(shell, page)
    except Failed as failure:
        situation = stage.situation()
        # The page's own way out: the steps that follow begin with nothing.
        if shell.process.poll() is None:
            shell.run(page[-1])
        raise Failed(f"{failure}\n{situation}") from None
    finally:
        shell.end()
        shell.process.wait()
    require(not left(stage), f"it left {sorted(left(stage))}")


STEPS = [quickstart]
