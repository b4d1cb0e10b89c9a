"""An image with this machine's Python and the official MCP SDK, for agents and MCP servers, without a registry."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from . import archive
from .parts import HERE

NAME = "localhost/agent:1"
UNUSED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pip", "setuptools", "config"}


def tree(folder: Path, into: str, skip: set[str]) -> Iterator[tuple[str, Path]]:
    for here, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name not in skip and not name.startswith("config-")]
        for name in names:
            path = Path(here, name)
            if path.is_file() and path.suffix not in (".a", ".exe"):
                yield f"{into}/{path.relative_to(folder)}", path


def libraries(binaries: list[Path]) -> dict[str, Path]:
    """What the loader would load for them, by name."""
    found: dict[str, Path] = {}
    for binary in binaries:
        told = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
        for line in told.splitlines():
            words = line.split()
            if "=>" in words and len(words) > 2 and words[2].startswith("/"):
                found[words[0]] = Path(words[2])
            elif words and words[0].startswith("/"):
                found[words[0]] = Path(words[0])
    return found


def write(image: Path) -> None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    home = f"python/lib/{version}"
    interpreter = Path(sys.executable).resolve()
    files = {"python/bin/python3": interpreter}
    files.update(tree(Path(sysconfig.get_path("stdlib")), home, UNUSED | {"site-packages"}))
    files.update(tree(Path(sysconfig.get_path("purelib")), f"{home}/site-packages", UNUSED))
    loaded = [interpreter, *(path for path in files.values() if ".so" in path.suffixes)]
    for name, path in libraries(loaded).items():
        # The loader itself stands where the interpreter asks for it.
        files[name.removeprefix("/") if name.startswith("/") else f"python/libraries/{name}"] = path
    for program in ["agent.py", "bypass.py", "server.py"]:
        files[f"app/{program}"] = HERE / "pods" / program
    config = {
        "Entrypoint": ["/python/bin/python3"],
        "Env": [
            "PATH=/python/bin",
            "PYTHONHOME=/python",
            "LD_LIBRARY_PATH=/python/libraries",
            "HOME=/tmp",
            "PYTHONDONTWRITEBYTECODE=1",
            "PYTHONUNBUFFERED=1",
        ],
        "WorkingDir": "/app",
        "User": "1000:1000",
    }
    listed = [(path, source, 0o755 if os.access(source, os.X_OK) else 0o644) for path, source in sorted(files.items())]
    archive.write(image, NAME, [*listed, ("tmp/.keep", b"", 0o644)], config)
