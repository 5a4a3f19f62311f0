"""Somebody with a DuckDB shell, who changes the lake past everything that we wrote."""

import duckdb

from resources.warehouse import Warehouse


def run_sql(lake: Warehouse, *statements: str) -> None:
    """Run `statements` on the lake, attached as `lake`; each is a snapshot that names nobody."""
    with duckdb.connect(config={"extension_directory": lake.extensions, "allow_unsigned_extensions": "true"}) as shell:
        for extension in ("ducklake", "sqlite_scanner", "postgres_scanner"):
            shell.load_extension(extension)
        shell.execute(f"attach 'ducklake:{lake.catalog}' as lake (data_path '{lake.data}', data_inlining_row_limit 0)")
        for statement in statements:
            shell.execute(statement)
