"""Access to the server by bearer tokens from a file, which may change while the server runs.

Does not depend on requests.  Tokens are never shown, not even in errors.
"""

from __future__ import annotations

import hmac
from pathlib import Path

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import read_bytes

_SCHEME = "bearer "
_MOST_BYTES = 1 << 16


class TokenError(UserError, ValueError):
    """The token file cannot be used.  The text is one line and names the fix."""


class Access:
    """The file has one token per line.  Any of them is accepted, so an old token can stay valid beside a new one."""

    def __init__(self, token_file: Path | None) -> None:
        """``None``: everybody has access.  Raises ``TokenError``."""
        self._file = token_file
        self._seen: tuple[int, int, int] | None = None
        self._tokens: list[bytes] = []
        if token_file is not None:
            self._read()

    def allows(self, authorization: str | None) -> bool:
        """Whether this ``Authorization`` field has a valid token.  Takes the same time for a wrong token."""
        if self._file is None:
            return True
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        given = authorization[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        return any(matches)

    def refresh(self, *, always: bool = False) -> bool:
        """Read the file again if it has changed; returns whether it was read.  Raises ``TokenError`` and keeps the old
        tokens."""
        if self._file is None or (not always and self._stamp() in (self._seen, None)):
            return False
        self._read()
        return True

    def _read(self) -> None:
        assert self._file is not None
        stamp = self._stamp()
        lines = read_bytes(self._file, "--token-file", most=_MOST_BYTES, error=TokenError).split(b"\n")
        tokens = [line.strip() for line in lines if line.strip()]
        if not tokens:
            raise TokenError(f"--token-file {self._file} has no token: write one per line")
        self._tokens, self._seen = tokens, stamp

    def _stamp(self) -> tuple[int, int, int] | None:
        assert self._file is not None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
