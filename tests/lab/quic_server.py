"""The lab's QUIC server: streams of `GET N`, answered by N bytes (a bare protocol, not HTTP/3).

python -m tests.lab.quic_server CONFIG.json
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from tests.lab.exchange import BLOCK, IDLE_S, MAX_HEAD, MAX_TRANSFER, QUIC_ALPN, TLS_PORT
from tests.lab.server import ServerConfig


async def quic_main(config: ServerConfig) -> None:
    """Listen on every address, for ever."""
    settings = QuicConfiguration(
        is_client=False, alpn_protocols=[QUIC_ALPN], idle_timeout=IDLE_S, max_datagram_size=1350
    )
    settings.load_cert_chain(config.certificate, config.key)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.read(MAX_HEAD)).decode("ascii")
        size = min(int(request.split()[1]), MAX_TRANSFER)
        writer.write((BLOCK * (size // len(BLOCK) + 1))[:size])
        writer.write_eof()

    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(one(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    for address in config.addresses:
        await serve(address, TLS_PORT, configuration=settings, stream_handler=accept)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(quic_main(ServerConfig.read(Path(sys.argv[1]))))
