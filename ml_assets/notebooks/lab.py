"""JupyterLab over an environment: `python -m ml_assets.notebooks.lab`, which is `make notebook`.

Belongs here: how JupyterLab is started, and the folder it opens. Not here: what a notebook can do
(`sdk/workbench.py`).
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from resources.environment import Environment

TUTORIAL = Path(__file__).with_name("tutorial.ipynb")

_SETTINGS = (
    "--ServerApp.ip=127.0.0.1",
    # In a container everybody is root, and the other services run as root there too.
    "--ServerApp.allow_root=True",
    f"--LabApp.default_url=/lab/tree/{TUTORIAL.name}",
    # Nothing reports home: no news, no look for a newer release, no catalog of extensions.
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
    # Code and outputs go between server and kernel through the loopback, encrypted.
    "--KernelManager.transport_encryption=auto",
)
_PAGE = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
"""Without it the page asks each new user whether it may fetch news."""

_QUIET = (
    # Dagster marks partition mappings as beta; the release is pinned and the tests drive them.
    "ignore:Parameter `",
    # Progress bars are text: there are no widgets.
    "ignore:IProgress not found",
)


def prepare(environment: Environment) -> Path:
    """Make the folder of notebooks, with a copy of the tutorial if it has none; a copy that is there stays.

    People work on the copy, so that the repository stays as it is.

    Returns:
        The tutorial's copy.
    """
    environment.notebooks.mkdir(parents=True, exist_ok=True)
    copy = environment.notebooks / TUTORIAL.name
    if not copy.exists():
        shutil.copyfile(TUTORIAL, copy)
    page = environment.jupyter / "config" / "labconfig" / "page_config.json"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(json.dumps(_PAGE))
    return copy


def command(environment: Environment, arguments: Sequence[str]) -> list[str]:
    """The command line that starts JupyterLab; of `arguments`, which it takes too, none undoes a setting of ours."""
    root = f"--ServerApp.root_dir={environment.notebooks}"
    return [sys.executable, "-m", "jupyterlab", *arguments, root, *_SETTINGS]


def variables(environment: Environment) -> dict[str, str]:
    """What JupyterLab and its kernels need besides the process's own variables.

    Kernels find the environment whatever folder they run in. JupyterLab keeps to the state folder: a person's own
    settings and kernels in their home folder play no part.
    """
    return {
        **environment.variables,
        "PYTHONWARNINGS": ",".join(_QUIET),
        "JUPYTER_CONFIG_DIR": str(environment.jupyter / "config"),
        "JUPYTER_DATA_DIR": str(environment.jupyter / "data"),
        "JUPYTER_RUNTIME_DIR": str(environment.jupyter / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(environment.jupyter / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(environment.jupyter / "workspaces"),
        "IPYTHONDIR": str(environment.jupyter / "ipython"),
    }


def main() -> None:
    """Become JupyterLab over the current environment, with the command line's arguments."""
    environment = Environment.current()
    prepare(environment)
    arguments = command(environment, sys.argv[1:])
    os.execve(arguments[0], arguments, {**os.environ, **variables(environment)})


if __name__ == "__main__":
    main()
