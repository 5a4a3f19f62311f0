"""What others build upon changes where somebody says so."""

from tests.surface import SURFACE, surface


def test_commands_and_declarations_are_those_of_the_snapshot() -> None:
    assert surface() == SURFACE.read_text(), "review the difference, then: python -m tests.surface"
