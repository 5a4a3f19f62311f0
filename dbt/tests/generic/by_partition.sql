{#-
  dbt's own tests, with rows that say which partition they are of. The names and arguments are dbt's; a repeated value
  is one within a partition.
-#}
{% test not_null(model, column_name) %}
  select *
  from {{ model }}
  where {{ column_name }} is null
{% endtest %}

{% test unique(model, column_name) %}
  select columns(name -> lower(name) in ('partition_key', '{{ column_name | lower | replace('"', '') }}')), count(*) as row_count
  from {{ model }}
  where {{ column_name }} is not null
  group by all
  having count(*) > 1
{% endtest %}

{% test accepted_values(model, column_name, values, quote=True) %}
  select *
  from {{ model }}
  where {{ column_name }} not in (
    {%- for value in values -%}
      {{ "'" ~ (value | string | replace("'", "''")) ~ "'" if quote else value }}{{ ", " if not loop.last }}
    {%- endfor -%}
  )
{% endtest %}

{% test relationships(model, column_name, to, field) %}
  select *
  from {{ model }} as child
  where {{ column_name }} is not null
    and not exists (select 1 from {{ to }} as parent where parent.{{ field }} = child.{{ column_name }})
{% endtest %}
