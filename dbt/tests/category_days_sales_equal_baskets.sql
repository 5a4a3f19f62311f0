-- A day's sales are the same by category and by basket: no line is lost, fuel and unknown products included.
{{ config(meta={'partitions': 'daily', 'dagster': {'ref': {'name': 'category_days'}}}) }}

with
categories as (

    select
        partition_key,
        sum(sales_usd) as sales_usd
    from {{ window_of(ref('category_days')) }}
    group by partition_key

),

baskets as (

    select
        partition_key,
        sum(sales_usd) as sales_usd
    from {{ window_of(ref('baskets')) }}
    group by partition_key

)

select *
from categories
full join baskets using (partition_key)
where categories.sales_usd is distinct from baskets.sales_usd
