"""The lock is installed by uv as pip is configured, and by pip where uv cannot follow or is not to be had."""

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform_assets.instance.installation import OnlyPip, install, settings_of, uv_variables


def test_settings_are_those_that_pip_install_reads_the_nearest_first() -> None:
    listing = "\n".join(
        [
            ":env:.find-links='/wheels'",
            "download.proxy='http://elsewhere'",
            "global.find-links='/other'",
            "global.extra-index-url='https://one/simple\\nhttps://two/simple'",
            "global.timeout='60'",
            "install.constraint='c.txt'",
        ]
    )
    assert settings_of(listing) == {
        "find-links": "/wheels",
        "extra-index-url": "https://one/simple\nhttps://two/simple",
        "timeout": "60",
        "constraint": "c.txt",
    }
    assert settings_of("") == {}


def test_places_and_trust_become_variables_of_uv() -> None:
    given_to_pip = {
        "index-url": "https://me:secret@host/simple",
        "extra-index-url": "https://one/simple\nhttps://two/simple",
        "find-links": "/wheels ~/more",
        "constraint": "a.txt b.txt",
        "cert": "/ca.pem",
        "client-cert": "/me.pem",
        "trusted-host": "one two:8080",
        "no-index": "false",
        "timeout": "60",
        "quiet": "",
    }
    assert uv_variables(given_to_pip) == {
        "UV_DEFAULT_INDEX": "https://me:secret@host/simple",
        "UV_INDEX": "https://one/simple https://two/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"/wheels,{Path.home()}/more",
        "UV_CONSTRAINT": "a.txt b.txt",
        "SSL_CERT_FILE": "/ca.pem",
        "SSL_CLIENT_CERT": "/me.pem",
        "UV_INSECURE_HOST": "one two:8080",
    }
    assert uv_variables({"no-index": "yes"}) == {"UV_NO_INDEX": "1"}
    assert {uv_variables({"proxy": "p"})[name] for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY")} == {"p"}


@given(
    st.sampled_from(["keyring-provider", "require-hashes", "target", "pre", "no-binary", "use-feature", "a-new-one"]),
    st.text(min_size=1).filter(str.strip),
)
def test_whatever_uv_has_no_counterpart_of_is_named_without_its_value(setting: str, value: str) -> None:
    with pytest.raises(OnlyPip) as refused:
        uv_variables({"timeout": "60", setting: value})
    assert str(refused.value) == f"pip's setting {setting} has no counterpart in uv"


def test_a_path_that_uv_would_take_for_two_is_left_to_pip() -> None:
    with pytest.raises(OnlyPip, match="comma"):
        uv_variables({"find-links": "/wheels,old"})


def wheel(folder: Path, name: str, *files: tuple[str, str], needs: str = "") -> None:
    """A wheel of version 1.0 made by hand: nothing is built, nothing is fetched."""
    info = f"{name}-1.0.dist-info"
    held = [
        *files,
        (f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + needs),
        (f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
    ]
    digests = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        for path, text in held
    ]
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        for path, text in [*held, (f"{info}/RECORD", "\n".join([*digests, f"{info}/RECORD,,"]) + "\n")]:
            member = zipfile.ZipInfo(path)
            member.external_attr = 0o100755 << 16
            file.writestr(member, text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """A Python of its own, and a project whose lock and build back end lie in a folder that pip alone is told of."""
    root, wheels = tmp_path / "project", tmp_path / "wheels"
    root.mkdir()
    wheel(wheels, "locked", ("locked.py", ""), needs="Requires-Dist: unlocked\n")
    wheel(wheels, "unlocked", ("unlocked.py", ""))
    backend = "def build_editable(folder, *_):\n    import shutil\n    name = 'house-1.0-py3-none-any.whl'\n"
    backend += f"    shutil.copy({str(tmp_path / 'house' / 'house-1.0-py3-none-any.whl')!r}, folder)\n    return name\n"
    wheel(wheels, "backend", ("backend.py", backend))
    wheel(tmp_path / "house", "house", ("house.py", ""))
    (root / "requirements.lock").write_text("locked==1.0\nbackend==1.0\n")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\n[project]\nname = "house"\nversion = "1.0"\n'
    )
    (root / "rooms").mkdir()
    (root / "rooms" / "kitchen.py").write_text("")
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    settings = tmp_path / "pip.conf"
    settings.write_text(f"[global]\nfind-links = {wheels}\nno-index = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    return str(tmp_path / "venv" / "bin" / "python"), root


def installed(python: str, root: Path) -> bool:
    """Whether the lock, and nothing else, is there and compiled with the project, whatever is said about bytecode."""
    imported = "import os, locked, house, rooms.kitchen; [os.stat(one.__cached__) for one in (locked, rooms.kitchen)]"
    found = [
        subprocess.run([python, "-B", "-c", code], cwd=root, capture_output=True).returncode == 0
        for code in (imported, "import unlocked")
    ]
    return found == [True, False]


def test_where_uv_is_not_to_be_had_pip_installs_and_says_so(project: tuple[str, Path]) -> None:
    said: list[str] = []
    assert install(*project, said.append) == 0
    assert said == ["Installing with pip, which takes minutes: uv is not to be had here."]
    assert installed(*project)


def test_uv_installs_from_where_pip_is_told_to(project: tuple[str, Path], tmp_path: Path) -> None:
    """The uv of the lock, packed as a wheel that pip finds: it runs the real program."""
    uv = Path(sys.executable).with_name("uv")
    scripts = f'#!/bin/sh\necho "$@" >> {tmp_path / "asked"}\nexec {uv} "$@"\n'
    wheel(tmp_path / "wheels", "uv", ("uv-1.0.data/scripts/uv", scripts))
    said: list[str] = []
    assert install(*project, said.append) == 0
    assert said == []
    assert installed(*project)
    assert len((tmp_path / "asked").read_text().splitlines()) == 2


def test_the_lock_holds_all_that_its_packages_need() -> None:
    uv = Path(sys.executable).with_name("uv")
    done = subprocess.run([uv, "pip", "check", "--python", sys.executable], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert find_spec("rfc3987_syntax") is None, "every process that imports dbt would parse its grammar"


def test_what_neither_can_install_is_a_failure(project: tuple[str, Path]) -> None:
    (project[1] / "requirements.lock").write_text("nowhere==1.0\n")
    said: list[str] = []
    assert install(*project, said.append) != 0
    assert said
