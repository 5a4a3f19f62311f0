"""What every declaration of the SDK raises when it cannot be built."""


class DeclarationError(ValueError):
    """A declaration that cannot be built; the message names what is wrong with it and what is allowed."""
