{#- The wall clock of a team at a UTC timestamp that carries no zone; the team of the model, unless another zone is named. -#}
{% macro local_time(utc_timestamp, time_zone=none) -%}
  timezone('{{ time_zone or calendar_of(model.schema).time_zone }}', timezone('UTC', {{ utc_timestamp }}))
{%- endmacro %}

{#-
  The partition key of the hour that a UTC timestamp without a zone falls into, where the model's team is. The second of
  two hours with one name carries its offset: clocks then show what they showed an hour before.
-#}
{% macro hour_key(utc_timestamp) -%}
  {%- set local = local_time(utc_timestamp) -%}
  {%- set before = local_time("(" ~ utc_timestamp ~ ") - interval 1 hour") -%}
  {%- set minutes = "date_diff('minute', " ~ utc_timestamp ~ ", " ~ local ~ ")" -%}
  strftime(date_trunc('hour', {{ local }}), '{{ key_format('hourly') }}') || case when {{ local }} = {{ before }}
    then printf('%s%02d%02d', case when {{ minutes }} < 0 then '-' else '+' end, abs({{ minutes }}) // 60, abs({{ minutes }}) % 60) else '' end
{%- endmacro %}

{#- The first day of the week that a local date or timestamp is in; weeks begin on the day that the team's do. -#}
{% macro week_of(moment, team=none) -%}
  {%- set days = calendar_of(team or model.schema).first_day -%}
  {%- if days -%}
    date_trunc('week', {{ moment }} - interval {{ days }} day) + interval {{ days }} day
  {%- else -%}
    date_trunc('week', {{ moment }})
  {%- endif -%}
{%- endmacro %}
