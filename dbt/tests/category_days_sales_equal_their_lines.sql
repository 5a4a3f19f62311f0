-- A day's sales by category are those of its lines: none is lost, fuel and unknown products included.
{{ config(meta={'partitions': 'daily', 'dagster': {'ref': {'name': 'category_days'}}}) }}

with
categories as (

    select
        partition_key,
        sum(sales_usd) as sales_usd
    from {{ window_of(ref('category_days')) }}
    group by partition_key

),

lines as (

    select
        partition_key,
        sum(sales_usd) as sales_usd
    from {{ window_of(ref('int_transactions_priced')) }}
    group by partition_key

)

select *
from categories
full join lines using (partition_key)
where categories.sales_usd is distinct from lines.sales_usd
