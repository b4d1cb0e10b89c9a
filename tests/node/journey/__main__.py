"""Installs Postern on a real node and goes the user's whole way. Started by tests/node/run, which says the rest."""

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from harness import python
from harness.kube import Kube
from harness.outside import check_machine, need
from harness.parts import HERE, REPOSITORY, Failed

from . import agents, captures, control, quickstart, release
from .stage import Stage

# Each leaves the cluster as the next one expects it.
STEPS = [*quickstart.STEPS, *release.INSTALL, *agents.STEPS, *captures.STEPS, *control.STEPS, *release.STEPS]


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def running_node(work: Path, images: list[Path]) -> Iterator[dict]:
    """The node of tests/node/node: it ends when its stdin does, and so with us in any case."""
    command = [HERE / "node", "--dir", work / "logs", *(part for image in images for part in ("--image", image))]
    node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout and node.stdin
        line = node.stdout.readline()
        if not line:
            raise Failed(f"no node: it ended with {node.wait()}; above is what it said, and --logs DIR keeps its logs")
        yield json.loads(line)
    finally:
        node.stdin.close()
        node.wait()


def run_steps(stage: Stage, wanted: list[str]) -> tuple[int, int]:
    """How many passed, and how many failed."""
    passed = failed = 0
    for step in STEPS:
        if wanted and step.__name__ not in wanted and step not in release.INSTALL:
            continue
        began = time.monotonic()
        try:
            step(stage)
            passed += 1
            mark, detail = "ok    ", ""
        except Exception as failure:
            failed += 1
            mark, detail = "FAILED", str(failure) if isinstance(failure, Failed) else traceback.format_exc()
        say(f"  {mark} {time.monotonic() - began:5.1f} s  {step.__doc__}")
        if detail:
            say("\n".join(f"      {line}" for line in detail.splitlines()))
            say("\n".join(f"      {line}" for line in stage.situation().splitlines()))
            if step in release.INSTALL:
                say("  nothing more can be tried without it")
                break
    return passed, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", nargs="*", help="only these, by the names of their functions")
    parser.add_argument("--image", type=Path, help="an archive with Postern's image, instead of building it")
    parser.add_argument("--logs", type=Path, help="where the logs of the node go, to be kept")
    arguments = parser.parse_args()
    if unknown := set(arguments.steps) - {step.__name__ for step in STEPS}:
        parser.error(f"no step {', '.join(unknown)}; there are {', '.join(step.__name__ for step in STEPS)}")
    # So that what is begun below is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="postern-journey-") as scratch:
        work = Path(scratch)
        try:
            # Before minutes go into what it would run.
            check_machine()
            setup = REPOSITORY / "tests/cluster/setup"
            kube, helm = Path(need(setup, "kube")), Path(need(setup, "helm4"))
            image = arguments.image or Path(need(HERE / "image").splitlines()[-1])
            python.write(work / "agent.tar")
            if arguments.logs:
                arguments.logs.mkdir(parents=True, exist_ok=True)
                (work / "logs").symlink_to(arguments.logs.absolute())
            with running_node(work, [image, work / "agent.tar"]) as node:
                own = node["ready_ms"] / 1000
                say(f"a node is ready, {time.monotonic() - began:.1f} s from nothing, {own:.1f} s of it its own")
                stage = Stage(Kube(kube / "kubectl", helm / "helm", node["kubeconfig"], work), work, node, image)
                passed, failed = run_steps(stage, arguments.steps)
                stage.close()
                for fact in stage.facts:
                    say(fact)
        except Failed as failure:
            say(f"node journey: {failure}")
            return 1
    say(f"the journey took {time.monotonic() - began:.0f} s")
    say(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
