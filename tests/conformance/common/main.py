"""What both programs do alike: check the binary, keep a directory for the run, end politely."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path


def run(body: Callable[[Path], Awaitable[int]], keep: bool) -> int:
    if not os.access(os.environ.get("POSTERN_BIN", ""), os.X_OK):
        print("POSTERN_BIN must name the postern binary", file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="postern-conformance-"))

    async def guarded() -> int:
        # A polite kill must also stop the children, so it takes the way of an exception through `finally`.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)
        return await body(directory)

    try:
        return asyncio.run(guarded())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    finally:
        if keep:
            print(f"kept {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory)
