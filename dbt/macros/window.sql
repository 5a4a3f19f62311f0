{#-
  The window of a run, and what a model reads and replaces of it.

  `--event-time-start` and `--event-time-end` set the window, in the team's local time, end exclusive. They are
  flags and not --vars because dbt parses the whole project again whenever the vars differ. Without them a run
  reads and replaces everything. Where a run builds several stretches of time and not what lies between them, the
  variable HEADWATER_WINDOWS of its environment names each as start/end, parted by commas.

  A model says once, in its yml, how it is partitioned:

      config:
        meta:
          partitions: weekly        # hourly | daily | weekly | none
          partition_column: week    # the column that partition_key is computed from; staging passes its own through
          lookback:                 # upstream: how many of this model's own partitions before the window it also reads
            reader_days: 3

  A window is widened to whole partitions: a weekly model built for a Wednesday is built for that whole week.
-#}

{#- Partition keys are Dagster's, verbatim; keys of all grains compare as strings in the order of time. -#}
{% macro grains() %}
  {% do return({
    'hourly': {'key_format': '%Y-%m-%d-%H:%M', 'step': modules.datetime.timedelta(hours=1)},
    'daily': {'key_format': '%Y-%m-%d', 'step': modules.datetime.timedelta(days=1)},
    'weekly': {'key_format': '%Y-%m-%d', 'step': modules.datetime.timedelta(days=7)},
  }) %}
{% endmacro %}

{#- The start of the partition that `moment` falls into. -#}
{% macro partition_start(grain, moment) %}
  {% set hour = moment.replace(minute=0, second=0, microsecond=0) %}
  {% set day = hour.replace(hour=0) %}
  {% do return({
    'hourly': hour,
    'daily': day,
    'weekly': day - modules.datetime.timedelta(days=day.weekday()),
  }[grain]) %}
{% endmacro %}

{#- The end of the last partition that a span ending before `moment` touches. -#}
{% macro partition_end(grain, moment) %}
  {% set start = partition_start(grain, moment) %}
  {% do return(start if start == moment else start + grains()[grain].step) %}
{% endmacro %}

{#-
  The run's windows in whole partitions of `grain`, each with `lookback` partitions more before it. None without the
  flags, and for what is not partitioned.
-#}
{% macro windows(grain, lookback=0) %}
  {% if grain == 'none' or not invocation_args_dict.get('event_time_start') %}
    {% do return(none) %}
  {% endif %}
  {% set parse = modules.datetime.datetime.fromisoformat %}
  {% set whole = invocation_args_dict['event_time_start'] ~ '/' ~ invocation_args_dict['event_time_end'] %}
  {% set found = [] %}
  {% for window in (env_var('HEADWATER_WINDOWS', '') or whole).split(',') %}
    {% set start, end = window.split('/') %}
    {% do found.append({
      'start': partition_start(grain, parse(start)) - lookback * grains()[grain].step,
      'end': partition_end(grain, parse(end)),
    }) %}
  {% endfor %}
  {% do return(found) %}
{% endmacro %}

{#- The condition on partition_key that restricts a table of `grain` to `windows`. -#}
{% macro within_windows(grain, windows) %}
  {%- set key_format = grains()[grain].key_format -%}
  (
  {%- for window in windows -%}
    {{ " or " if not loop.first }}partition_key >= '{{ partition_start(grain, window.start).strftime(key_format) }}' and partition_key < '{{ partition_end(grain, window.end).strftime(key_format) }}'
  {%- endfor -%}
  )
{%- endmacro %}

{#- How a node of the graph is partitioned, as its meta declares; an undeclared one is refused. -#}
{% macro partitions_of(node) %}
  {% set partitions = (node.config.meta or {}).get('partitions') %}
  {% if partitions not in ('hourly', 'daily', 'weekly', 'none') %}
    {% do exceptions.raise_compiler_error(
      node.name ~ " declares config.meta.partitions '" ~ partitions ~ "'; set it to hourly, daily, weekly or none in its yml.") %}
  {% endif %}
  {% do return(partitions) %}
{% endmacro %}

{#- The model or source behind a relation. -#}
{% macro node_of(relation) %}
  {% for node in graph.nodes.values() if node.resource_type == 'model' and node.alias == relation.identifier and node.schema == relation.schema %}
    {% do return(node) %}
  {% endfor %}
  {% for node in graph.sources.values() if node.identifier == relation.identifier and node.schema == relation.schema %}
    {% do return(node) %}
  {% endfor %}
  {% do exceptions.raise_compiler_error("No model or source of this project is stored as " ~ relation ~ ".") %}
{% endmacro %}

{#-
  What a model reads of an upstream: the partitions of the run's window, and of the lookback that the model's meta
  declares for it. Everything when the run has no window, and in unit tests, whose inputs are given rows.
-#}
{% macro window_of(relation) %}
  {% if not execute or model.resource_type == 'unit_test' %}
    {% do return(relation) %}
  {% endif %}
  {% set upstream_grain = partitions_of(node_of(relation)) %}
  {% set lookback = model.config.meta.get('lookback', {}).get(relation.identifier, 0) %}
  {% set windows = windows(partitions_of(model), lookback) %}
  {% if windows is none or upstream_grain == 'none' %}
    {% do return(relation) %}
  {% endif %}
  {% do return("(select * from " ~ relation ~ " where " ~ within_windows(upstream_grain, windows) ~ ")") %}
{% endmacro %}

{#- What a data test reads of the model it judges: the partitions of the run's window. -#}
{% macro get_where_subquery(relation) %}
  {% set conditions = [config.get('where')] if config.get('where') else [] %}
  {% if execute %}
    {% set grain = partitions_of(node_of(relation)) %}
    {% set windows = windows(grain) %}
    {% if windows %}
      {% do conditions.append(within_windows(grain, windows)) %}
    {% endif %}
  {% endif %}
  {% if conditions %}
    {% do return("(select * from " ~ relation ~ " where " ~ conditions | join(' and ') ~ ") as dbt_subquery") %}
  {% endif %}
  {% do return(relation) %}
{% endmacro %}

{#-
  The condition that keeps the rows of the partitions a model is built for, by its partition column: for a model with a
  lookback, which reads more than it writes.
-#}
{% macro is_in_window() %}
  {%- set windows = windows(partitions_of(model)) if execute and model.resource_type != 'unit_test' -%}
  {%- if windows -%}
    {%- set moment = model.config.meta.partition_column -%}
    (
    {%- for window in windows -%}
      {{ " or " if not loop.first }}{{ moment }} >= timestamp '{{ window.start }}' and {{ moment }} < timestamp '{{ window.end }}'
    {%- endfor -%}
    )
  {%- else -%}
    true
  {%- endif -%}
{% endmacro %}
