{#- The wall clock of a time zone at a UTC timestamp that carries no zone. -#}
{% macro local_time(utc_timestamp, time_zone) -%}
  timezone('{{ time_zone }}', timezone('UTC', {{ utc_timestamp }}))
{%- endmacro %}
