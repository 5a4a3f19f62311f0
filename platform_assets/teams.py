"""The data teams: who owns which key prefix, dbt group and alert channel.

Belongs here: what is true of a team everywhere. Not here: sources, models or calendars of a team.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Team:
    """A data team; `name` is its asset key prefix and its dbt group."""

    name: str
    email: str
    description: str

    @property
    def owner(self) -> str:
        """The owner string that Dagster shows on every asset of the team."""
        return f"team:{self.name}"

    def group(self, area: str) -> str:
        """The web UI's group of the team's assets of one area, such as `marts` or an ML project's name."""
        return f"{self.name}_{area}"


TEAMS = {
    team.name: team
    for team in (
        Team("commerce", "commerce-data@example.com", "Grocery retail: the 84.51° Complete Journey."),
        Team("platform", "platform@example.com", "Headwater itself: what it knows of everybody's data."),
        Team("webtoon", "webtoon-data@example.com", "Web comics: a synthetic reading log."),
    )
}


def team_of(name: str) -> Team:
    """The team called `name`.

    Raises:
        KeyError: no such team; the message lists the declared ones.
    """
    if name not in TEAMS:
        raise KeyError(f"unknown team {name!r}; declared in platform_assets/teams.py: {', '.join(sorted(TEAMS))}")
    return TEAMS[name]
