"""Certificates for TLS on loopback, made with the openssl command."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class Certificates:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for authority in ("ca", "other_ca"):
            self._openssl("req", "-x509", *self._key(authority), "-subj", f"/CN={authority}", "-days", "30",
                          "-out", self.of(authority))  # fmt: skip
        self._sign("server", "ca", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        self._sign("elsewhere", "ca", "subjectAltName=DNS:elsewhere.example")
        self._sign("client", "ca", "extendedKeyUsage=clientAuth")

    def of(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def server(self, name: str, protocol: str, *, asks: bool = False, alpn: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.of(name), self.key(name))
        if alpn:
            context.set_alpn_protocols(["h2"] if protocol == "grpc" else ["http/1.1"])
        if asks:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.of("ca"))
        return context

    def _sign(self, name: str, authority: str, extension: str) -> None:
        self.folder.joinpath(f"{name}.ext").write_text(extension + "\n")
        request = self.folder / f"{name}.csr"
        self._openssl("req", "-new", *self._key(name), "-subj", f"/CN={name}", "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.of(authority), "-CAkey", self.key(authority),
                      "-CAcreateserial", "-days", "30", "-extfile", self.folder / f"{name}.ext",
                      "-out", self.of(name))  # fmt: skip

    def _key(self, name: str) -> list[object]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", self.key(name)]

    @staticmethod
    def _openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
