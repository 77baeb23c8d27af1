"""Salted commitments: a leaf holds 32 bytes, the text is encrypted in a store beside the log.

A commitment is BLAKE2b-256 (RFC 7693) of the text, keyed with a salt of 32 random bytes. Whoever
gets salt and text can check it against the leaf; without the salt it tells nothing, not even of a
text that can be guessed. Erasing salt and text leaves every leaf, hash and proof as it was.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from retention.audit import disk

SALT_BYTES: Final = 32
MAX_TEXT: Final = 4096
"""Bytes; an identifier, a name or a reference, with room to spare."""
_NONCE_BYTES: Final = 12  # NIST SP 800-38D section 5.2.1.1
_COMMITMENT: Final = re.compile(r"[0-9a-f]{64}")


class CommitmentError(Exception):
    """No such text is kept, or what is kept is damaged, or of another key."""


def commitment(salt: bytes, text: str) -> str:
    """What a leaf holds for a text: 64 hex digits."""
    return hashlib.blake2b(text.encode(), key=salt, digest_size=32).hexdigest()


class CommitmentStore:
    """Texts by their commitments, each in a file of its own, AES-256-GCM under one key file."""

    def __init__(self, folder: Path, key_file: Path) -> None:
        self._folder, self._key_file = folder, key_file

    def commit(self, text: str) -> str:
        """Keep a text under a new salt and give its commitment; durable when it returns."""
        return self._keep(secrets.token_bytes(SALT_BYTES), text)

    def person(self, name: str) -> str:
        """Give the one commitment of a member of staff, so that leaves show who is the same."""
        key = hashlib.blake2b(self._key(), digest_size=32, person=b"staff").digest()
        return self._keep(hashlib.blake2b(name.encode(), key=key, digest_size=32).digest(), name)

    def text(self, value: str) -> str:
        """Give the text of a commitment; raises CommitmentError if there is none."""
        return self.opening(value)[1]

    def opening(self, value: str) -> tuple[bytes, str]:
        """Give salt and text, with which anyone can check the commitment in a leaf."""
        try:
            data = self._path(value).read_bytes()
        except FileNotFoundError as error:
            raise CommitmentError("no text is kept for this commitment") from error
        try:
            plain = AESGCM(self._key()).decrypt(
                data[:_NONCE_BYTES], data[_NONCE_BYTES:], value.encode()
            )
        except (InvalidTag, ValueError) as error:
            raise CommitmentError("the kept text is damaged, or of another key") from error
        return plain[:SALT_BYTES], plain[SALT_BYTES:].decode()

    def erase(self, value: str) -> None:
        """Forget salt and text; durable. What is erased already is no error."""
        path = self._path(value)
        if path.exists():
            disk.remove(path)
            disk.sync_folder(path.parent)

    def _keep(self, salt: bytes, text: str) -> str:
        plain = salt + text.encode()
        if len(plain) > SALT_BYTES + MAX_TEXT:
            raise CommitmentError(f"a text of more than {MAX_TEXT} bytes")
        value = commitment(salt, text)
        path = self._path(value)
        if not path.exists():
            nonce = os.urandom(_NONCE_BYTES)
            data = nonce + AESGCM(self._key()).encrypt(nonce, plain, value.encode())
            disk.make_folder(path.parent, 0o700)
            disk.replace(path, data, 0o600)
        return value

    def _path(self, value: str) -> Path:
        if not _COMMITMENT.fullmatch(value):
            raise CommitmentError("not a commitment")
        return self._folder / value[:2] / value

    def _key(self) -> bytes:
        key = disk.secret(self._key_file, secrets.token_bytes(32))
        if len(key) != 32:
            raise CommitmentError("the key of the commitment store is damaged")
        return key
