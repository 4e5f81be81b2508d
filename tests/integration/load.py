"""`python load.py URL RATE`: a page on a new connection, RATE times a second, until SIGINT.

Prints `begun` after the first answer and at the end, as JSON: how many requests succeeded, the failed ones by
reason, and which pods answered.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from urllib.parse import urlsplit

PATIENCE = 10.0


async def page(host: str, port: int, path: str) -> dict[str, str]:
    """Fetch a JSON page over a connection of its own."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head:
        raise OSError(f"answered {head[:40]!r}")
    found: dict[str, str] = json.loads(body)
    return found


async def main(url: str, rate: int) -> None:
    """Ask until told to end."""
    parts = urlsplit(url)
    failed: Counter[str] = Counter()
    pods: Counter[str] = Counter()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, ended.set)

    async def once() -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                found = await page(parts.hostname or "", parts.port or 80, parts.path)
        except (OSError, ValueError) as error:
            failed[f"{type(error).__name__}: {error}"] += 1
        else:
            pods[found["pod"]] += 1

    await once()
    print("begun", flush=True)
    tasks = set()
    while not ended.is_set():
        task = asyncio.create_task(once())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*tasks)
    print(json.dumps({"succeeded": pods.total(), "failed": failed, "pods": pods}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
