"""The ML project that the README builds, as its reader would write it down."""

import re

from resources.environment import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def readme_project() -> str:
    """The text of its `project.py`."""
    (block,) = re.findall(r'```python\n("""What a household will spend.*?)```', README, flags=re.DOTALL)
    return str(block)
