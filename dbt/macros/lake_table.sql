{#-
  A table in the lake, partitioned by partition_key, of which a run replaces its window's partitions in one transaction:
  a failing query, a full disk or a killed process leaves what was there. Without a window, and for a model with
  `partitions: none`, all rows are replaced.

  partition_key is computed from the model's `partition_column`; a row whose key lies outside the window is an error.
  A column that the model has gained is added to the table, null in the partitions that are not rebuilt. One that it
  has lost or retyped is refused: `--full-refresh` without a window makes the table anew.
-#}
{% materialization lake_table, adapter='duckdb' %}
  {%- set existing_relation = load_cached_relation(this) -%}
  {%- set target_relation = this.incorporate(type='table') -%}
  {%- set grain = partitions_of(model) -%}
  {%- set windows = windows(grain, this.schema) -%}
  {%- set rows = keyed_rows(grain) -%}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}

  {% if config.get('contract').enforced %}
    {% do get_assert_columns_equivalent(rows) %}
  {% endif %}
  {% set columns = get_column_schema_from_query(rows) %}

  {% if should_full_refresh() and windows %}
    {% do exceptions.raise_compiler_error(
      "--full-refresh of " ~ this ~ " would drop the partitions outside the window: run it without --event-time-start and --event-time-end.") %}
  {% endif %}
  {% if existing_relation is not none and (should_full_refresh() or not existing_relation.is_table) %}
    {% do adapter.drop_relation(existing_relation) %}
    {% set existing_relation = none %}
  {% endif %}

  {% if existing_relation is none %}
    {% call statement('create') -%}
      create table {{ target_relation }} as select * from ({{ rows }}) limit 0
    {%- endcall %}
    {% if grain != 'none' %}
      {% do run_query("alter table " ~ target_relation ~ " set partitioned by (partition_key)") %}
    {% endif %}
    {% do persist_docs(target_relation, model) %}
  {% else %}
    {% do adopt_columns(target_relation, columns) %}
    {% call statement('delete') -%}
      delete from {{ target_relation }} {% if windows %}where {{ within_windows(grain, windows, this.schema) }}{% endif %}
    {%- endcall %}
  {% endif %}

  {% call statement('main') -%}
    insert into {{ target_relation }} by name
    select * {% if grain != 'none' -%}
      replace (case when {{ within_windows(grain, windows, this.schema) if windows else 'partition_key is not null' }} then partition_key
        else error(concat('{{ this.schema }}.{{ this.identifier }} has a row in partition ', coalesce(partition_key, 'null'),
          ', outside the run''s window: look at {{ model.config.meta.partition_column }} in the partitions it was read from.')) end as partition_key)
    {%- endif %}
    from ({{ rows }})
  {%- endcall %}
  {% do name_commit() %}

  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {{ adapter.commit() }}
  {{ run_hooks(post_hooks, inside_transaction=False) }}

  {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}

{#- The model's rows with the key of the partition each belongs to. -#}
{% macro keyed_rows(grain) %}
  {%- set column = model.config.meta.partition_column -%}
  {%- if grain == 'none' or column == 'partition_key' -%}
    {{ compiled_code }}
  {%- else -%}
    {%- set start = week_of(column) if grain == 'weekly' else "date_trunc('month', " ~ column ~ ")" if grain == 'monthly' else column -%}
    select *, strftime({{ start }}, '{{ key_format(grain) }}') as partition_key
    from ({{ compiled_code }})
  {%- endif -%}
{% endmacro %}

{#- Adds to a stored table the columns that its model has gained; refuses any other difference. -#}
{% macro adopt_columns(relation, columns) %}
  {% set stored, wanted = {}, {} %}
  {% for column in adapter.get_columns_in_relation(relation) %}
    {% do stored.update({column.name: column.dtype}) %}
  {% endfor %}
  {% for column in columns %}
    {% do wanted.update({column.name: column.dtype}) %}
  {% endfor %}
  {% for name in stored if wanted.get(name) != stored[name] %}
    {% do exceptions.raise_compiler_error(
      relation ~ " stores column " ~ name ~ " as " ~ stored[name] ~ " and its model has " ~ wanted.get(name, 'no such column')
      ~ ": run it with --full-refresh and without a window, which makes the table anew, or give the column a new name.") %}
  {% endfor %}
  {% for name in wanted if name not in stored %}
    {% do run_query("alter table " ~ relation ~ " add column " ~ adapter.quote(name) ~ " " ~ wanted[name]) %}
  {% endfor %}
{% endmacro %}
