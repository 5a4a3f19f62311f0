"""Which folders declare something: by a file that is found, not by a list.

Belongs here: finding the folders. Not here: what their files declare (`projects.py`, `features/catalogue.py`).
"""

from collections.abc import Iterator
from pathlib import Path

from ml_assets.declaration_error import DeclarationError


def declaring(folder: Path, file: str) -> Iterator[str]:
    """The names of the folders in `folder` that have a `file`, in order; hidden ones are left alone.

    Raises:
        DeclarationError: one has a name that Python cannot import.
    """
    for path in sorted(folder.glob(f"*/{file}")):
        name = path.parent.name
        if name.startswith("."):
            continue
        if not name.isidentifier():
            raise DeclarationError(
                f"{folder.name}/{name}/{file} cannot be imported: rename the folder to letters, digits and _, or move "
                "it elsewhere"
            )
        yield name
