"""Loads every code location in a process of its own, and writes what it declares; see `graph.workspace_graph`.

Belongs here: the process. Not here: when it is started, and who reads what it writes (`graph.py`).

A process that has been running for some time has imported the code of some time ago, and would publish that.
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from platform_assets.operations.graph import code_locations, declared_assets
from platform_assets.operations.locations import LocationError, told_by_location


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
