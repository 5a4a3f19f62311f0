"""Loads every code location in a process of its own, and writes what it declares; see `published.workspace_graph`.

Belongs here: the process. Not here: when it is started, and who reads what it writes (`published.py`).

A process that has been running for some time has imported the code of some time ago, and would publish that.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from platform_assets.asset_graph.locations import LocationError, code_locations, told_by_location
from platform_assets.asset_graph.published import declared_assets


def main(file: Path) -> int:
    """Write into `file` the assets of each location as JSON, or what does not load; returns an exit code."""
    found: dict[str, Any] = {}
    try:
        for name, module in code_locations().items():
            with told_by_location(name, module):
                found[name] = declared_assets(name, importlib.import_module(module).defs())
    except LocationError as error:
        file.write_text(json.dumps({"broken": str(error)}))
        return 1
    file.write_text(json.dumps({"locations": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
