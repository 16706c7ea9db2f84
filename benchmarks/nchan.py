"""nginx with nchan, a server in C, as what a topic is measured beside; and what publishes to it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from . import machine
from .servers import ROOT, Server, stop, wait_for_port

#: Where Debian's ``libnginx-mod-nchan`` puts it.
MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

_CONFIGURATION = """
load_module {module};
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/log;
events {{ worker_connections 30000; }}
http {{
    access_log off;
    client_body_temp_path {directory};
    proxy_temp_path {directory};
    fastcgi_temp_path {directory};
    uwsgi_temp_path {directory};
    scgi_temp_path {directory};
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        location /follow/ {{
            nchan_subscriber eventsource;
            nchan_channel_id readings;
            nchan_subscriber_first_message newest;
        }}
        location /publish/ {{
            nchan_publisher;
            nchan_channel_id readings;
            nchan_message_buffer_length 10000;
        }}
    }}
}}
"""


class Nchan(Server):
    """nginx in the place of a server; a process of its own publishes."""

    def begin(self, path: str, timeout: float = 120) -> Any:
        """Publish what a page ``/publish/?…`` would publish."""
        given = dict(parse_qsl(urlsplit(path).query))
        arguments = [str(self.port), given["size"], given["count"], given.get("rate", "0")]
        return subprocess.Popen([sys.executable, "-m", "benchmarks.nchan", *arguments], cwd=ROOT)

    def end(self, begun: Any) -> None:
        """Wait until all is published."""
        begun.wait(120)


def is_installed() -> bool:
    """Return whether nginx and its module are there."""
    return shutil.which("nginx", path="/usr/sbin:/usr/bin") is not None and MODULE.exists()


@contextmanager
def nchan() -> Iterator[Nchan]:
    """Run nginx on the servers' core."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        configuration = Path(directory) / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(module=MODULE, directory=directory, port=port)
        )
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
        with machine.on(machine.cores()[0]):
            process = subprocess.Popen(
                [str(program), "-c", str(configuration), "-p", directory],
                text=True,
                stderr=subprocess.DEVNULL,
            )
        try:
            wait_for_port(port)
            yield Nchan(process, port)
        finally:
            stop(process)


def publish(port: int, size: int, count: int, rate: float) -> None:
    """Publish so many events over one connection: at a rate, or as fast as may be."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begun = time.monotonic()
        for number in range(count):
            data = f"t={time.monotonic_ns()};".ljust(size, "x").encode()
            head = f"POST /publish/ HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
            connection.sendall(head.encode() + data)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += connection.recv(65536)
            if rate:
                time.sleep(max(begun + (number + 1) / rate - time.monotonic(), 0))


if __name__ == "__main__":
    publish(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
