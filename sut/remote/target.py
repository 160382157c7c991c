"""What all targets have: a model on servers, reached by some protocol over TCP."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import option


@dataclass(frozen=True)
class TargetOptions:
    """The options of every target; each declares further ones in its own file."""

    TITLE: ClassVar = "remote servers"

    url: tuple[str, ...] = option(
        (),
        metavar="URL",
        help="the server's address, such as grpc://HOST:8001 or http://HOST:8000, or grpcs:// and https:// over TLS; "
        "repeat it for several servers",
    )
    concurrency: int | None = option(
        None,
        help="most requests under way (default: Offline 64, and Server 64 through tritonclient; else no bound but "
        "--connections)",
    )
    connections: int | None = option(
        None,
        help="connections to each server (default: gRPC 1; HTTP, where each carries one request at a time, 1 in "
        "SingleStream, 1 for each sample in MultiStream, else 64 or --concurrency)",
    )
    balance: str = option(
        "round-robin",
        metavar="HOW",
        choices=("round-robin", "least-in-flight"),
        help="which connection takes the next request: round-robin or least-in-flight",
    )
    request_timeout: float | None = option(
        None, metavar="S", help="a request without a reply after S seconds fails (default: no timeout; see --patience)"
    )
    max_message_size: int = option(64, metavar="MB", help="largest reply to accept, MiB")
    header: tuple[str, ...] = option(
        (), metavar="'NAME: VALUE'", help="sent with every request, such as 'authorization: Bearer TOKEN'"
    )
    tls_ca: Path | None = option(None, help="certificates to trust (default: the system's)")
    tls_cert: Path | None = option(None, help="client certificate, if the server requires one")
    tls_key: Path | None = option(None, needs=("tls_cert",), help="the key of --tls-cert")

    def __post_init__(self) -> None:
        """Raises ``UserError`` for options of TLS on connections without TLS."""
        clear = all(url.partition(":")[0].lower() in ("grpc", "http") for url in self.url)
        for name, value in (("--tls-ca", self.tls_ca), ("--tls-cert", self.tls_cert)):
            if self.url and clear and value is not None:
                raise UserError(f"{name} has no effect on {self.url[0]}: give grpcs:// or https://, or leave it out")
