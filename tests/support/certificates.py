"""A certificate of 127.0.0.1, for tests that speak TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.services import find


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """Return the files of a key and of its self-signed certificate."""
    openssl = find("openssl", package="openssl")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command = [openssl, *made, "-keyout", str(key), "-out", str(certificate), *subject]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate
