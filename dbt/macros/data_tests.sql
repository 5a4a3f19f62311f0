{#-
  Data tests are judged partition by partition, by one query. Rows that a test returns with a partition_key fail that
  partition and no other; `warn_if` and `error_if` hold for each. Where a test returns no partition_key, or says
  `config.meta.scope: run`, because what it looks for lies between partitions, its verdict is that of all the run's
  partitions together.

  What failed is told to the run in a line of the log; dbt itself gets the one row that it wants.
-#}
{% materialization test, adapter='duckdb' %}
  {%- set query = get_limit_subquery_sql(sql, config.get('limit')) -%}
  {%- set calc, warn_if, error_if = config.get('fail_calc'), config.get('warn_if'), config.get('error_if') -%}
  {%- set key = 'partition_key' if is_judged_by_partition(query) else 'cast(null as varchar)' -%}
  {%- set found = run_query(
    "with failing as (" ~ query ~ ") "
    ~ "select " ~ key ~ " as partition_key, " ~ calc ~ " as failures, " ~ calc ~ " " ~ warn_if ~ " as warns, "
    ~ calc ~ " " ~ error_if ~ " as fails, true as has_rows from failing group by 1 "
    ~ "union all select null, " ~ calc ~ ", " ~ calc ~ " " ~ warn_if ~ ", " ~ calc ~ " " ~ error_if ~ ", false "
    ~ "from (select * from failing where false)").rows -%}
  {%- set told = namespace(failures=0, warns=false, fails=false, rows=[]) -%}
  {%- for row in found if row['has_rows'] or found | length == 1 -%}
    {%- set told.failures = told.failures + (row['failures'] or 0) -%}
    {%- set told.warns = told.warns or row['warns'] -%}
    {%- set told.fails = told.fails or row['fails'] -%}
  {%- endfor -%}
  {%- for row in found -%}
    {%- do told.rows.append({
      'partition': row['partition_key'], 'failures': (row['failures'] or 0) | int,
      'warns': row['warns'], 'fails': row['fails'], 'has_rows': row['has_rows']}) -%}
  {%- endfor -%}
  {%- if told.rows | length > 1 or told.warns or told.fails -%}
    {%- do log('headwater judged ' ~ tojson({'test': model.unique_id, 'found': told.rows}), info=true) -%}
  {%- endif -%}
  {%- if should_store_failures() -%}
    {{ return(materialization_test_default()) }}
  {%- endif -%}
  {% call statement('main', fetch_result=True) -%}
    select {{ told.failures | int }} as failures, {{ told.warns }} as should_warn, {{ told.fails }} as should_error
  {%- endcall %}
  {{ return({'relations': []}) }}
{% endmaterialization %}

{#- Whether the rows of a data test say which partition they are of, and only that partition is to fail. -#}
{% macro is_judged_by_partition(query) %}
  {% set scope = (model.config.meta or {}).get('scope', 'partition') %}
  {% if scope not in ('partition', 'run') %}
    {% do exceptions.raise_compiler_error(
      "Data test " ~ model.name ~ " declares config.meta.scope '" ~ scope ~ "'; set it to partition or run.") %}
  {% endif %}
  {% set columns = get_column_schema_from_query(query) | map(attribute='name') | map('lower') | list %}
  {% do return(scope == 'partition' and 'partition_key' in columns) %}
{% endmacro %}
