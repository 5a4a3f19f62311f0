{#- The grain: within a partition these columns together are never null and never repeated. -#}
{% test one_row_per(model, columns) %}
  select columns(name -> lower(name) in ('partition_key', '{{ columns | map("lower") | join("', '") }}')), count(*) as row_count
  from {{ model }}
  group by all
  having count(*) > 1 or {{ columns | join(' is null or ') }} is null
{% endtest %}
