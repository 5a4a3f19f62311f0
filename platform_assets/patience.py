"""Looking again and again: how long to rest in between, and when to give up. The rules for every wait of ours.

Belongs here: counting the time in which nothing moved, and the time that a look took. Not here: what counts as
movement, which whoever waits says. A time since the start says nothing of a machine that is slow; a time without
movement does. Nor does a fixed pause: on a slow machine looking would take what is left for what is waited for.
"""

import time
from dataclasses import dataclass, field

REST = 3
"""Times as long as a look took: looking takes a quarter of a core at most, on a slow machine too."""
LONGEST_SECONDS = 60.0
"""Of a rest: a look that waited for something else, as for definitions that load, is no reason to rest for long."""


def rest(took: float, least: float) -> float:
    """Seconds to rest after a look.

    Args:
        took: seconds that the look took.
        least: seconds to rest after the quickest one.
    """
    return max(least, min(REST * took, LONGEST_SECONDS))


@dataclass
class Pace:
    """Looks with rests in between, of `least` seconds or as much longer as the looks need."""

    least: float
    _woke: float = field(default_factory=time.monotonic)

    def rest(self) -> None:
        """Sleep, by how long the look since the last sleep took."""
        time.sleep(rest(time.monotonic() - self._woke, self.least))
        self._woke = time.monotonic()


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
