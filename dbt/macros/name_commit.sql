{#-
  Puts the run and the model into the snapshot that the current transaction will make: the author is the Dagster run
  (HEADWATER_RUN_ID; the dbt invocation when dbt runs by itself), the message is <team>/<model>. A run that was given up
  fails here, before it commits (resources/run_fence.py).
-#}
{% macro name_commit() %}
  {% set commit = {
    'invocation_id': invocation_id,
    'window_start': invocation_args_dict.get('event_time_start') | string,
    'window_end': invocation_args_dict.get('event_time_end') | string,
  } if invocation_args_dict.get('event_time_start') else {'invocation_id': invocation_id} %}
  {% call statement('name_commit') -%}
    call {{ this.database }}.set_commit_message(
      '{{ env_var("HEADWATER_RUN_ID", invocation_id) }}', '{{ this.schema }}/{{ this.identifier }}', extra_info => '{{ tojson(commit) }}')
  {%- endcall %}
  {% call statement('refuse_given_up') -%}
    select refuse_given_up('{{ env_var("HEADWATER_RUN_ID", invocation_id) }}')
  {%- endcall %}
{% endmacro %}
