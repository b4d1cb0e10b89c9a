"""Writes an image archive (`docker save`'s form) of files of this machine, for containers that need no registry."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def entries(layer: tarfile.TarFile, files: Iterable[tuple[str, Path | bytes, int]]) -> None:
    """Each file by its path in the image, what it holds, and its mode; folders above it are made."""
    made = set()
    for path, content, mode in files:
        above = [parent for parent in reversed(Path(path).parents) if str(parent) != "."]
        for folder in above:
            if folder not in made:
                made.add(folder)
                told = tarfile.TarInfo(str(folder))
                told.type, told.mode = tarfile.DIRTYPE, 0o755
                layer.addfile(told)
        told = tarfile.TarInfo(path)
        told.mode = mode
        body = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
        with body:
            if isinstance(content, bytes):
                told.size = len(content)
            else:
                status = os.fstat(body.fileno())
                # Python takes its compiled form of a file only when the time fits.
                told.size, told.mtime = status.st_size, int(status.st_mtime)
            layer.addfile(told, body)


def write(archive: Path, name: str, files: Iterable[tuple[str, Path | bytes, int]], config: dict[str, object]) -> None:
    partial = archive.with_suffix(".partial")
    layer_file = archive.with_suffix(".layer")
    with tarfile.open(layer_file, "w") as layer:
        entries(layer, files)
    digest = hashlib.file_digest(layer_file.open("rb"), "sha256").hexdigest()
    document = {
        "architecture": ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "tests/node"}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(partial, "w") as whole:
        entries(whole, [("layer.tar", layer_file, 0o644)])
        entries(whole, [("config.json", json.dumps(document).encode(), 0o644)])
        entries(whole, [("manifest.json", json.dumps(manifest).encode(), 0o644)])
    layer_file.unlink()
    partial.rename(archive)
