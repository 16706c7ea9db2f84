"""A proxy that breaks a connection off in the middle of what the server sends."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from types import TracebackType

from tests.support.servers import HOST


class CuttingProxy:
    """Forwards connections to a port of 127.0.0.1, and cuts the first one that brings ``marker``.

    That one gets the bytes up to the end of ``marker``, and then its connection is closed; this
    happens once.
    """

    def __init__(self, port: int, marker: bytes = b"") -> None:
        self._target = (HOST, port)
        self._marker = marker
        self.cuts = 0
        self._listener = socket.create_server((HOST, 0))
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        """The address of its root, without a slash at the end."""
        return f"http://{HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> CuttingProxy:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        self._listener.settimeout(0.1)
        while not self._ended.is_set():
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._forward, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward(self, client: socket.socket) -> None:
        with client:
            try:
                server = socket.create_connection(self._target)
            except OSError:
                return  # The server is being restarted.
            with server, selectors.DefaultSelector() as selector:
                selector.register(client, selectors.EVENT_READ, server)
                selector.register(server, selectors.EVENT_READ, client)
                seen = b""
                while not self._ended.is_set():
                    for key, _ in selector.select(0.1):
                        try:
                            piece = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        except OSError:
                            return
                        if not piece:
                            return
                        if key.fileobj is server and self._marker and not self.cuts:
                            seen = seen[-len(self._marker) :]
                            if (end := (seen + piece).find(self._marker)) >= 0:
                                self.cuts += 1
                                rest = end + len(self._marker) - len(seen)
                                client.sendall(piece[: max(rest, 0)])
                                return
                            seen += piece
                        with suppress(OSError):
                            key.data.sendall(piece)
