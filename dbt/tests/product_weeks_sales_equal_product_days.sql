-- A week's sales and units are those of its days.
{{ config(meta={'partitions': 'weekly', 'dagster': {'ref': {'name': 'product_weeks'}}}) }}

with
weeks as (

    select
        partition_key,
        sum(sales_usd) as sales_usd,
        sum(units) as units
    from {{ window_of(ref('product_weeks')) }}
    group by partition_key

),

days as (

    select
        strftime(date_trunc('week', day), '%Y-%m-%d') as partition_key,
        sum(sales_usd) as sales_usd,
        sum(units) as units
    from {{ window_of(ref('product_days')) }}
    group by 1

)

select *
from weeks
full join days using (partition_key)
where (weeks.sales_usd, weeks.units) is distinct from (days.sales_usd, days.units)
