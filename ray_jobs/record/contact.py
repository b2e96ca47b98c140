"""The way to the mailbox of a running job: `control.json` of its run folder.

It exists while the job runs, and only its owner can read it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "control.json"


@dataclass(frozen=True)
class Contact:
    """Where the mailbox of a run is.

    Attributes:
        address: address of the cluster's head (its GCS).
        namespace: Ray namespace of the run's mailbox.
        token: word without which the mailbox answers nobody.
        auth: Ray's own authentication in the run, as RAY_AUTH_MODE; empty: Ray's default. A head
            that a run starts for itself asks for a token, and Ray sends none unless told to.
    """

    address: str
    namespace: str
    token: str
    auth: str

    def write(self, file: Path) -> None:
        """Write the file, readable by its owner alone from its first byte on."""
        file.unlink(missing_ok=True)
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as out:
            json.dump(asdict(self), out)

    @classmethod
    def read(cls, file: Path) -> Contact:
        """Read the file. Raises OSError, or ValueError for damaged contents."""
        try:
            contact = cls(**json.loads(file.read_text(encoding="utf-8")))
            if not all(isinstance(value, str) for value in asdict(contact).values()):
                raise TypeError("all values are texts")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: damaged ({error}); the run goes on without control until its next start"
            ) from None
        return contact
