"""Giving up on what does not move: the one rule for every wait of ours.

Belongs here: counting the time in which nothing moved. Not here: what counts as movement, which whoever waits says.
A time since the start says nothing of a machine that is slow; a time without movement does.
"""

import time
from dataclasses import dataclass, field


@dataclass
class Patience:
    """Patience of `seconds` for something whose state is looked at again and again."""

    seconds: float
    _state: object = None
    _since: float = field(default_factory=time.monotonic)

    def still(self, state: object) -> float:
        """For how many seconds the state has been what it is now."""
        if state != self._state:
            self._state, self._since = state, time.monotonic()
        return time.monotonic() - self._since

    def over(self, state: object) -> bool:
        """Whether the state has been what it is now for longer than the patience lasts."""
        return self.still(state) > self.seconds
