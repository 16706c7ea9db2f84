"""Real proxies in front of a server, with the configurations that the documentation shows."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.servers import HOST, ROOT, free_port, listens
from tests.support.services import find

EXAMPLES = ROOT / "docs" / "examples"
START_SECONDS = 10.0
STOP_SECONDS = 1.0

_NGINX = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {extra}
    include {directory}/project.conf;
}
"""

_MODULES = (
    "mpm_event authz_core proxy proxy_http headers setenvif filter deflate socache_shmcb ssl http2"
)
_APACHE = (
    "".join(
        f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
        for name in _MODULES.split()
    )
    + """
{user}
ServerName {host}
Listen {host}:{port}
DefaultRuntimeDir {directory}
Mutex posixsem
PidFile {directory}/apache.pid
ErrorLog {directory}/error.log
{extra}
Include {directory}/project.conf
"""
)

_CADDY = """{
	admin off
	auto_https disable_redirects
	{extra}
}
import {directory}/project.conf
"""


@dataclass(frozen=True)
class Program:
    """A proxy: where its program and its documented configuration are, and how a test starts it.

    ``own`` are the parts of the configuration that a test replaces, each of which must be there;
    ``impatient`` shortens the time for which a stream may be silent to a second; ``tls`` lets it
    speak HTTP/2. ``around`` is the configuration that includes the documented one.
    """

    package: str
    binary: str
    example: str
    own: Mapping[str, str]
    command: Callable[[Path, int], Sequence[str]]
    around: str = ""
    impatient: Mapping[str, str] = field(default_factory=dict)
    impatient_arguments: Sequence[str] = ()
    tls: Mapping[str, str] = field(default_factory=dict)


PROGRAMS = {
    "nginx": Program(
        package="nginx-light",
        binary="nginx",
        example="nginx.conf",
        own={
            "server 127.0.0.1:8000;": "server {host}:{upstream};",
            "    listen 80;": "    listen {host}:{port};",
        },
        around=_NGINX,
        command=lambda directory, port: [
            *("-p", str(directory), "-e", str(directory / "error.log")),
            *("-c", str(directory / "around.conf")),
        ],
        impatient={"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"},
        tls={
            "server_name example.com;": "ssl_certificate {cert}; ssl_certificate_key {key};",
            "    listen {host}:{port};": "    listen {host}:{port} ssl http2;",
        },
    ),
    "haproxy": Program(
        package="haproxy",
        binary="haproxy",
        example="haproxy.cfg",
        own={
            "server one 127.0.0.1:8000": "server one {host}:{upstream}",
            "    bind :80\n": "    bind {host}:{port}\n",
            "    maxconn 20000": "    maxconn 200",
        },
        command=lambda directory, port: ["-db", "-f", str(directory / "project.conf")],
        impatient={
            "timeout server 60s": "timeout server 1s",
            "timeout client 60s": "timeout client 1s",
        },
        tls={
            "    bind {host}:{port}\n": "    bind {host}:{port} ssl crt {both} alpn h2,http/1.1\n",
        },
    ),
    "apache": Program(
        package="apache2-bin",
        binary="apache2",
        example="apache.conf",
        own={
            "http://127.0.0.1:8000/": "http://{host}:{upstream}/",
            "<VirtualHost *:80>": "<VirtualHost *:{port}>",
        },
        around=_APACHE,
        command=lambda directory, port: ["-DFOREGROUND", "-f", str(directory / "around.conf")],
        impatient={"timeout=60": "timeout=1"},
        tls={
            "    # Protocols h2 http/1.1": (
                "    SSLEngine on\n    SSLCertificateFile {cert}\n"
                "    SSLCertificateKeyFile {key}\n    Protocols h2 http/1.1"
            ),
        },
    ),
    "caddy": Program(
        package="caddy",
        binary="caddy",
        example="Caddyfile",
        own={
            "reverse_proxy 127.0.0.1:8000 {": "reverse_proxy {host}:{upstream} {",
            "example.com {": "http://{host}:{port} {\n\tbind {host}",
        },
        around=_CADDY,
        command=lambda directory, port: [
            *("run", "--adapter", "caddyfile", "--config", str(directory / "around.conf")),
        ],
        impatient={
            "lb_policy least_conn": "lb_policy least_conn\n\ttransport http {\n\tread_timeout 1s\n\t}"
        },
        tls={"http://{host}:{port} {\n": "https://{host}:{port} {\n\ttls {cert} {key}\n"},
    ),
    "varnish": Program(
        package="varnish",
        binary="varnishd",
        example="varnish.vcl",
        own={'.port = "8000";': '.port = "{upstream}";'},
        command=lambda directory, port: [
            *("-j", "none", "-F", "-a", f"{HOST}:{port}", "-n", str(directory / "varnish")),
            *("-s", "default,32m", "-f", str(directory / "project.conf")),
        ],
        impatient_arguments=("-p", "pipe_timeout=1"),
    ),
}


#: nginx with the configuration of the first deployment.
DEPLOYED = replace(
    PROGRAMS["nginx"],
    example="deployment/nginx.conf",
    own={"server web:8000;": "server {host}:{upstream};", "listen 80;": "listen {host}:{port};"},
    impatient={},
    tls={},
)


class Proxy:
    """``with Proxy("haproxy", directory, server.port):`` serves the documented configuration.

    ``changes`` replaces parts of it, each of which must be there once; ``extra`` stands before it;
    ``certificate`` (the files of a key and of its certificate) lets it speak HTTP/2.
    """

    def __init__(
        self,
        name: str | Program,
        directory: Path,
        upstream: int,
        *,
        changes: Mapping[str, str] | None = None,
        extra: str = "",
        impatient: bool = False,
        arguments: Sequence[str] = (),
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        program = name if isinstance(name, Program) else PROGRAMS[name]
        self.name = program.binary
        self.directory = directory
        self.port = free_port()
        directory.mkdir()
        words: dict[str, object] = {
            # As root, Apache wants a user for its children.
            "user": "User www-data\nGroup www-data" if os.geteuid() == 0 else "",
            "host": HOST,
            "port": self.port,
            "upstream": upstream,
            "directory": directory,
            "extra": extra,
        }
        # One after the other: a later change may replace what an earlier one has put there.
        steps = [{**program.own, **(changes or {})}]
        if impatient:
            steps.append(dict(program.impatient))
        if certificate is not None:
            key, cert = certificate
            both = directory / "both.pem"
            both.write_text(cert.read_text() + key.read_text())
            words |= {"key": key, "cert": cert, "both": both}
            steps.append(dict(program.tls))
        text = (EXAMPLES / program.example).read_text()
        for step in steps:
            for old, new in step.items():
                before = _filled(old, words)
                assert text.count(before) == 1, before
                text = text.replace(before, _filled(new, words))
        (directory / "project.conf").write_text(text)
        (directory / "around.conf").write_text(_filled(program.around, words))
        self._scheme = "http" if certificate is None else "https"
        self._command = [
            find(program.binary, package=program.package),
            *program.command(directory, self.port),
            *(program.impatient_arguments if impatient else ()),
            *arguments,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return HOST, self.port

    @property
    def url(self) -> str:
        """The address of its root, without a slash at the end."""
        return f"{self._scheme}://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Return what it has complained of."""
        texts = [self.directory / "error.log", self.directory / "output.log"]
        return "".join(path.read_text() for path in texts if path.exists())

    def __enter__(self) -> Self:
        with (self.directory / "output.log").open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Caddy keeps its files there.
                env=os.environ
                | {
                    "XDG_DATA_HOME": str(self.directory),
                    "XDG_CONFIG_HOME": str(self.directory),
                },
                # A group of its own, so that its children can be ended with it.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if listens(self.port):
                return self
            time.sleep(0.02)
        self._end()
        raise RuntimeError(f"{self.name} did not start:\n{self.log()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _filled(text: str, words: Mapping[str, object]) -> str:
    # Not `format()`: configurations are full of braces.
    for name, value in words.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text
