"""Every declared source of the platform: one line a team.

A new source is one more declaration in its team's module; a new team is one more line here.
"""

from platform_assets.sources import commerce, webtoon
from platform_assets.sources.declaration import Source

SOURCES: tuple[Source, ...] = (
    *commerce.SOURCES,
    *webtoon.SOURCES,
)


def source_named(name: str) -> Source:
    """The source called `team.entity`.

    Raises:
        KeyError: no such source; the message lists the declared ones.
    """
    for source in SOURCES:
        if source.name == name:
            return source
    raise KeyError(
        f"unknown source {name!r}; declared in platform_assets/sources: {', '.join(s.name for s in SOURCES)}"
    )
