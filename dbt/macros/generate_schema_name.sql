{#- A model's schema is its team, as the asset key says: commerce.product_days, with no target in front. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
  {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
