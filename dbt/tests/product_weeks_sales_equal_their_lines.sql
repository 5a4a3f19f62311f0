-- A week's sales and units are those of its merchandise lines.
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

lines as (

    select
        strftime(date_trunc('week', sold_on), '%Y-%m-%d') as partition_key,
        sum(sales_usd) as sales_usd,
        sum(units) as units
    from {{ window_of(ref('int_transactions_priced')) }}
    where line_kind = 'merchandise'
    group by 1

)

select *
from weeks
full join lines using (partition_key)
where (weeks.sales_usd, weeks.units) is distinct from (lines.sales_usd, lines.units)
