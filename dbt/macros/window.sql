{#-
  The window of a run, and what a model reads and replaces of it.

  `--event-time-start` and `--event-time-end` set the window, in the team's local time, end exclusive. They are
  flags and not --vars because dbt parses the whole project again whenever the vars differ. Without them a run
  reads and replaces everything. A run of the platform also says its window in the variable HEADWATER_WINDOWS of its
  environment, which then counts: it names each stretch of time as start/end, parted by commas, and not what lies between
  them; and of an hour that comes twice, when clocks are set back, it says which. A moment there is written as the key of
  the hour that begins then: 2017-11-05-01:00, and the second time 2017-11-05-01:00-0500.

  A model says once, in its yml, how it is partitioned:

      config:
        meta:
          partitions: weekly        # hourly | daily | weekly | monthly | none
          partition_column: week    # the column that partition_key is computed from; staging passes its own through
          lookback:                 # upstream: how many of this model's own partitions before the window it also reads
            reader_days: 3

  A window is widened to whole partitions: a weekly model built for a Wednesday is built for that whole week. On which
  day weeks begin, and in which zone local time is, is said for each team in dbt_project.yml.

  Where an hour may come twice, local time does not tell the partition of an hourly model's row: its partition_column is
  `partition_key` then, passed through from its upstream or computed by `hour_key`.
-#}

{#- The team's time zone and the first day of its weeks, 0 for Monday to 6 for Sunday. -#}
{% macro calendar_of(team) %}
  {% if not execute %}
    {#- While dbt parses, no model knows its team yet. -#}
    {% do return({'time_zone': 'UTC', 'first_day': 0}) %}
  {% endif %}
  {% set calendar = var('calendars').get(team) %}
  {% if calendar is none %}
    {% do exceptions.raise_compiler_error(
      "vars.calendars of dbt_project.yml has no team '" ~ team ~ "': give its time_zone and week_begins, as its calendars in platform_assets/partitions.py have them.") %}
  {% endif %}
  {% set days = ['monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday', 'sunday'] %}
  {% if calendar.week_begins not in days %}
    {% do exceptions.raise_compiler_error(
      "vars.calendars of dbt_project.yml: week_begins of team '" ~ team ~ "' is '" ~ calendar.week_begins ~ "'; use one of " ~ days | join(', ') ~ ".") %}
  {% endif %}
  {% do return({'time_zone': calendar.time_zone, 'first_day': days.index(calendar.week_begins)}) %}
{% endmacro %}

{#- Partition keys are Dagster's, verbatim; keys of all grains compare as strings in the order of time. -#}
{% macro key_format(grain) %}
  {% do return('%Y-%m-%d-%H:%M' if grain == 'hourly' else '%Y-%m-%d') %}
{% endmacro %}

{#- A moment is local time, and its UTC offset where that time comes for the second time. -#}
{% macro moment(text) %}
  {% if text[10:11] == '-' %}
    {% do return({'at': modules.datetime.datetime.strptime(text[:16], '%Y-%m-%d-%H:%M'), 'offset': text[16:]}) %}
  {% endif %}
  {% do return({'at': modules.datetime.datetime.fromisoformat(text), 'offset': ''}) %}
{% endmacro %}

{#- The start of the partition that `moment` falls into. -#}
{% macro partition_start(grain, moment, calendar) %}
  {% set hour = moment.at.replace(minute=0, second=0, microsecond=0) %}
  {% set day = hour.replace(hour=0) %}
  {% set since_first_day = (day.weekday() - calendar.first_day) % 7 %}
  {% set at = {
    'hourly': hour,
    'daily': day,
    'weekly': day - modules.datetime.timedelta(days=since_first_day),
    'monthly': day.replace(day=1),
  }[grain] %}
  {% do return({'at': at, 'offset': moment.offset if grain == 'hourly' else ''}) %}
{% endmacro %}

{#- The end of the last partition that a span ending before `moment` touches. -#}
{% macro partition_end(grain, moment, calendar) %}
  {% set start = partition_start(grain, moment, calendar) %}
  {% do return(start if start == moment else shifted(grain, start, 1, calendar)) %}
{% endmacro %}

{#- The start of the partition so many partitions after the one that starts at `start`. -#}
{% macro shifted(grain, start, count, calendar) %}
  {% if grain == 'hourly' %}
    {% set zone = modules.pytz.timezone(calendar.time_zone) %}
    {% set hour = modules.datetime.timedelta(hours=1) %}
    {#- Both are the same but for a time that comes twice. -#}
    {% set times = [zone.localize(start.at, is_dst=true), zone.localize(start.at, is_dst=false)] | sort %}
    {% set instant = (times[1] if start.offset else times[0]) + count * hour %}
    {% set local = instant.astimezone(zone) %}
    {% set is_second = (instant - hour).astimezone(zone).replace(tzinfo=none) == local.replace(tzinfo=none) %}
    {% do return({'at': local.replace(tzinfo=none), 'offset': local.strftime('%z') if is_second else ''}) %}
  {% endif %}
  {% if grain == 'monthly' %}
    {% set months = start.at.year * 12 + start.at.month - 1 + count %}
    {% do return({'at': start.at.replace(year=months // 12, month=months % 12 + 1), 'offset': ''}) %}
  {% endif %}
  {% set days = count * (7 if grain == 'weekly' else 1) %}
  {% do return({'at': start.at + modules.datetime.timedelta(days=days), 'offset': ''}) %}
{% endmacro %}

{#-
  The run's windows in whole partitions of `grain` of `team`, each with `lookback` partitions more before it. None without
  the flags, and for what is not partitioned.
-#}
{% macro windows(grain, team, lookback=0) %}
  {% if grain == 'none' or not invocation_args_dict.get('event_time_start') %}
    {% do return(none) %}
  {% endif %}
  {% set calendar = calendar_of(team) %}
  {% set whole = invocation_args_dict['event_time_start'] ~ '/' ~ invocation_args_dict['event_time_end'] %}
  {% set found = [] %}
  {% for window in (env_var('HEADWATER_WINDOWS', '') or whole).split(',') %}
    {% set start, end = window.split('/') %}
    {% do found.append({
      'start': shifted(grain, partition_start(grain, moment(start), calendar), -lookback, calendar),
      'end': partition_end(grain, moment(end), calendar),
    }) %}
  {% endfor %}
  {% do return(found) %}
{% endmacro %}

{#- The condition on partition_key that restricts a table of `grain` of `team` to `windows`. -#}
{% macro within_windows(grain, windows, team) %}
  {%- set calendar = calendar_of(team) -%}
  (
  {%- for window in windows -%}
    {%- set start = partition_start(grain, window.start, calendar) -%}
    {%- set end = partition_end(grain, window.end, calendar) -%}
    {{ " or " if not loop.first }}partition_key >= '{{ start.at.strftime(key_format(grain)) ~ start.offset }}' and partition_key < '{{ end.at.strftime(key_format(grain)) ~ end.offset }}'
  {%- endfor -%}
  )
{%- endmacro %}

{#- How a node of the graph is partitioned, as its meta declares; an undeclared one is refused. -#}
{% macro partitions_of(node) %}
  {% set partitions = (node.config.meta or {}).get('partitions') %}
  {% if partitions not in ('hourly', 'daily', 'weekly', 'monthly', 'none') %}
    {% do exceptions.raise_compiler_error(
      node.name ~ " declares config.meta.partitions '" ~ partitions ~ "'; set it to hourly, daily, weekly, monthly or none in its yml.") %}
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
  {% if upstream_grain == 'none' %}
    {% do return(relation) %}
  {% endif %}
  {% set lookback = model.config.meta.get('lookback', {}).get(relation.identifier, 0) %}
  {% set windows = windows(partitions_of(model), relation.schema, lookback) %}
  {% if windows is none %}
    {% do return(relation) %}
  {% endif %}
  {% do return("(select * from " ~ relation ~ " where " ~ within_windows(upstream_grain, windows, relation.schema) ~ ")") %}
{% endmacro %}

{#- What a data test reads of the model it judges: the partitions of the run's window. -#}
{% macro get_where_subquery(relation) %}
  {% set conditions = [config.get('where')] if config.get('where') else [] %}
  {% if execute %}
    {% set grain = partitions_of(node_of(relation)) %}
    {% set windows = windows(grain, relation.schema) %}
    {% if windows %}
      {% do conditions.append(within_windows(grain, windows, relation.schema)) %}
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
  {%- set grain = partitions_of(model) if execute and model.resource_type != 'unit_test' else 'none' -%}
  {%- set windows = windows(grain, model.schema) -%}
  {%- set column = model.config.meta.partition_column -%}
  {%- if not windows -%}
    true
  {%- elif column == 'partition_key' -%}
    {{ within_windows(grain, windows, model.schema) }}
  {%- else -%}
    (
    {%- for window in windows -%}
      {{ " or " if not loop.first }}{{ column }} >= timestamp '{{ window.start.at }}' and {{ column }} < timestamp '{{ window.end.at }}'
    {%- endfor -%}
    )
  {%- endif -%}
{% endmacro %}
