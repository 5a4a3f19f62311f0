"""State is its owner's alone.

Belongs here: the modes of what our processes make, and whether others can reach a home that is there already. Not
here: who may ask a server (`origin_guard.py`).
"""

import stat
from pathlib import Path

PRIVATE = 0o077
"""The umask of our processes: what they make is for its owner alone."""

_OPEN = stat.S_IRWXO | stat.S_IRGRP | stat.S_IWGRP
"""What lets others in. A group that may only pass through a home, to its landing zone, sees nothing on the way."""


def openness_of(home: Path) -> str | None:
    """What to tell the owner of a home that other users of the machine can look into, and how to close it.

    None where it is closed, is not there yet, or lies in a folder that nobody else can pass.
    """
    if not home.is_dir() or not home.stat().st_mode & _OPEN:
        return None
    if any(not folder.stat().st_mode & (stat.S_IXOTH | stat.S_IXGRP) for folder in home.resolve().parents):
        return None
    mode = stat.S_IMODE(home.stat().st_mode)
    return f"other users of this machine can look into {home} (mode {mode:o}). Close it: chmod -R go= {home}"
