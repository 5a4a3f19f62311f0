"""Which dbt models changed since a git ref, and how far each change reaches.

Belongs here: the project as it was at the ref, and comparing the code of its models with today's. Not here: what a code
version is (`dbt_models/queries.py`), which pairs are rebuilt (`roots.py`).

Assets in Python are not compared: their code version is in every receipt, so that a changed one makes its pairs
outdated, and planning for unhealthy pairs finds them.
"""

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from platform_assets.dbt_models.queries import ModelCode, Query, UnreadableQuery, model_codes
from platform_assets.plans.plan import CodeChangesError
from platform_assets.plans.roots import CodeChange
from platform_assets.sources.catalogue import SOURCES
from resources.dbt import Dbt, DbtError
from resources.warehouse import TableName


class NoRepository(CodeChangesError):
    """The dbt project is in no git repository."""


class UnknownRef(CodeChangesError):
    """Git knows no such commit, or the dbt project was not there yet."""


class DoesNotCompile(CodeChangesError):
    """The project at the ref, or today's, is no project that dbt compiles and we can analyse."""


def changed_models(
    ref: str, dbt: Dbt, sources: Mapping[TableName, Mapping[str, str]] | None = None
) -> list[CodeChange]:
    """The dbt models whose code differs from what it was at the git ref `ref`, upstream models first.

    A removed model is not among them, nor is one of which only layout, comments, names of CTEs or the like changed.
    Changes that are not committed count. The lake is only opened, as for every compilation.

    Args:
        ref: a commit, branch or tag of the repository that holds the project.
        dbt: today's project.
        sources: columns and types of the tables that models read and dbt does not build; those that are declared now,
            unless given. They stand for those at the ref too.

    Raises:
        NoRepository: the project is not in a git repository, or git is not installed.
        UnknownRef: git does not know `ref`, or it has no dbt project.
        DoesNotCompile: the project at the ref does not compile, or a model's SQL cannot be analysed.
        DbtError: today's project does not compile.
    """
    tables = _declared() if sources is None else sources
    with tempfile.TemporaryDirectory(prefix="headwater-code-") as folder:
        project = Path(folder) / "project"
        _extract(Path(dbt.project), ref, project)
        try:
            then = dbt.of_folder(project, Path(folder) / "target").manifest()
        except DbtError as error:
            raise DoesNotCompile(
                f"the dbt project as it was at {ref} does not compile, so nothing can be compared with it; give a "
                f"later ref, or name the pairs that changed. {error}"
            ) from error
    return compare(_codes(then, tables, f"at {ref}"), _codes(dbt.manifest(), tables, "today"), ref)


def compare(before: Mapping[TableName, ModelCode], after: Mapping[TableName, ModelCode], ref: str) -> list[CodeChange]:
    """The changes that lead from the models at `ref` to those after, in the order of the latter."""
    return [
        CodeChange(
            f"{table.schema}/{table.name}",
            f"{_reason(before, after, table)} since {ref}",
            additive=table not in before or code.is_view or _only_adds(before[table], code),
        )
        for table, code in after.items()
        if table not in before or before[table].version != code.version
    ]


def _only_adds(before: ModelCode, after: ModelCode) -> bool:
    """Whether the columns that were there before hold what they held, in the same rows."""
    kept = before.whole.columns
    return (
        (before.settings, before.windows) == (after.settings, after.windows)
        and before.whole.by_name
        and after.whole.by_name
        and set(kept) <= set(after.whole.columns)
        and before.whole.digest_of(kept) == after.whole.digest_of(kept)
    )


def _reason(before: Mapping[TableName, ModelCode], after: Mapping[TableName, ModelCode], table: TableName) -> str:
    if table not in before:
        return "is new"
    old, new = before[table], after[table]
    found = [f"its {name} changed" for name, value in new.settings.items() if value != old.settings[name]]
    if old.windows != new.windows:
        found.append("what it reads of a run's window changed")
    found += [f"its {difference}" for difference in _differences(old.own, new.own)]
    for upstream, used in sorted(new.own.columns_read.items()):
        if upstream in before and upstream in after and after[upstream].is_view:
            old_view, new_view = before[upstream].whole, after[upstream].whole
            found += [f"it reads {upstream.name}, whose {what}" for what in _differences(old_view, new_view, used)]
    return "; ".join(found or ["what it reads changed"])


def _differences(before: Query, after: Query, used: frozenset[str] | None = None) -> Iterator[str]:
    """What of a query differs, in words; with `used`, only as far as it concerns who uses these columns."""
    if before.digest == after.digest:
        return
    if not (before.by_name and after.by_name):
        yield "query changed"
        return
    kept = [column for column in after.columns if column in before.columns]
    if used is None:
        yield from _of_columns([column for column in after.columns if column not in before.columns], "new")
        yield from _of_columns([column for column in before.columns if column not in after.columns], "gone")
    if before.digest_of(()) != after.digest_of(()):
        yield "query changed"
        return
    differ = [column for column in kept if before.digest_of([column]) != after.digest_of([column])]
    if used is not None:
        differ = [column for column in differ if column in used]
    if differ:
        yield f"column{'s' * (len(differ) > 1)} {', '.join(differ)} changed"


def _of_columns(columns: Sequence[str], how: str) -> Iterator[str]:
    if len(columns) == 1:
        yield f"column {columns[0]} is {how}"
    elif columns:
        yield f"columns {', '.join(columns)} are {how}"


def _codes(
    manifest: Mapping[str, Any], sources: Mapping[TableName, Mapping[str, str]], when: str
) -> Mapping[TableName, ModelCode]:
    try:
        return model_codes(manifest, sources)
    except UnreadableQuery as error:
        raise DoesNotCompile(f"the dbt models as they are {when} cannot be compared: {error}") from error


def _declared() -> Mapping[TableName, Mapping[str, str]]:
    return {TableName.of_key(source.raw_key): source.stored_columns for source in SOURCES}


def _extract(project: Path, ref: str, folder: Path) -> None:
    """Put the files of `project` as they were at `ref` into `folder`; the working tree stays as it is."""
    _git(
        project, NoRepository, f"{project} is in no git repository, so it has no earlier code", "rev-parse", "--git-dir"
    )
    unknown = f"git knows no commit {ref!r}; give a branch, a tag or a commit"
    if not ref or ref.startswith("-"):
        raise UnknownRef(unknown)
    named = _git(project, UnknownRef, unknown, "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    commit = named.decode().strip()
    missing = f"commit {ref} has no dbt project in {project.name}; give a later one"
    files = _git(project, UnknownRef, missing, "archive", "--format=tar", commit)
    with tarfile.open(fileobj=io.BytesIO(files)) as archive:
        archive.extractall(folder, filter="data")


def _git(project: Path, refusal: type[CodeChangesError], meaning: str, *arguments: str) -> bytes:
    """What git answers in the folder of the project; if it refuses, `refusal` with the meaning and git's words."""
    try:
        done = subprocess.run(["git", "-C", str(project), *arguments], capture_output=True, check=True)
    except FileNotFoundError as error:
        raise NoRepository("git is not installed, so no earlier code can be read; install git") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise refusal(f"{meaning} (git says: {said})") from error
    return done.stdout
