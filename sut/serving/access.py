"""Who may use the server: bearer tokens out of a file, which may change while the server runs.

Knows tokens; must not know requests.  Tokens are never shown, also not in errors.
"""

from __future__ import annotations

import hmac
from pathlib import Path

_SCHEME = "bearer "
_MOST_BYTES = 1 << 16


class TokenError(ValueError):
    """A token file that can not be used.  The text is one line and names the mend."""


class Access:
    """One token a line; any of them will do, so that an old one may go on for a while beside a new one."""

    def __init__(self, token_file: Path | None) -> None:
        """``None``: everybody may.  Raises ``TokenError``."""
        self._file = token_file
        self._seen: tuple[int, int, int] | None = None
        self._tokens: list[bytes] = []
        if token_file is not None:
            self._read()

    def allows(self, authorization: str | None) -> bool:
        """Whether this ``Authorization`` field holds a token.  Takes as long for a wrong one as for a right one."""
        if self._file is None:
            return True
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return False
        given = authorization[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        return any(matches)

    def refresh(self, *, always: bool = False) -> bool:
        """Read the file again where it has changed; whether it was.  Raises ``TokenError``: the tokens are as they
        were."""
        if self._file is None or (not always and self._stamp() in (self._seen, None)):
            return False
        self._read()
        return True

    def _read(self) -> None:
        assert self._file is not None
        stamp = self._stamp()
        try:
            with open(self._file, "rb") as file:
                lines = file.read(_MOST_BYTES).split(b"\n")
        except OSError as error:
            raise TokenError(f"--token-file {self._file} can not be read: {error.strerror}") from None
        tokens = [line.strip() for line in lines if line.strip()]
        if not tokens:
            raise TokenError(f"--token-file {self._file} holds no token: write one a line")
        self._tokens, self._seen = tokens, stamp

    def _stamp(self) -> tuple[int, int, int] | None:
        assert self._file is not None
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
