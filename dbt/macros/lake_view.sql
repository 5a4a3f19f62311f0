{#-
  A view in the lake. It passes its upstream's partition_key through, so it has the same partitions as its upstream.
  Building it for a window changes nothing: when the stored definition is this one, nothing is committed either.
-#}
{% materialization lake_view, adapter='duckdb' %}
  {%- set existing_relation = load_cached_relation(this) -%}
  {%- set target_relation = this.incorporate(type='view') -%}
  {%- set candidate = make_temp_relation(target_relation) -%}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}

  {% call statement('main') -%}
    create temporary view {{ candidate }} as ({{ compiled_code }})
  {%- endcall %}

  {% if existing_relation is not none and not existing_relation.is_view %}
    {% do adapter.drop_relation(existing_relation) %}
  {% endif %}

  {#- DuckDB keeps both definitions as it prints them, so layout and comments do not count. -#}
  {% set definitions = run_query(
    "select distinct substr(sql, position(' AS ' in sql)) from duckdb_views() where "
    ~ "(database_name = '" ~ this.database ~ "' and schema_name = '" ~ this.schema ~ "' and view_name = '" ~ this.identifier ~ "') "
    ~ "or (database_name = 'temp' and view_name = '" ~ candidate.identifier ~ "')") %}
  {% if existing_relation is none or not existing_relation.is_view or definitions | length > 1 %}
    {% call statement('store') -%}
      create or replace view {{ target_relation }} as ({{ compiled_code }})
    {%- endcall %}
    {% do persist_docs(target_relation, model) %}
    {% do name_commit() %}
  {% endif %}

  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {% do run_query("drop view " ~ candidate) %}
  {{ adapter.commit() }}
  {{ run_hooks(post_hooks, inside_transaction=False) }}

  {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
