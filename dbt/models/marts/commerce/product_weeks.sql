with lines as (

    select
        *,
        cast({{ week_of('sold_on') }} as date) as week
    from {{ window_of(ref('int_transactions_priced')) }}
    where line_kind = 'merchandise'

),

summed as (

    select
        week,
        product_id,
        cast(sum(units) as bigint) as units,
        cast(sum(sales_usd) as decimal(18, 2)) as sales_usd,
        sum(sales_usd) filter (is_priced) as priced_sales_usd,
        sum(regular_sales_usd) filter (is_priced) as priced_regular_sales_usd,
        count(distinct basket_id) as baskets,
        count(distinct household_id) as households,
        count(distinct store_id) as stores,
        count(distinct sold_on) as days_sold
    from lines
    group by week, product_id

),

promotions as (

    select * from {{ window_of(ref('int_promotions_summarized')) }}

)

select
    summed.week,
    summed.product_id,
    summed.units,
    summed.sales_usd,
    summed.baskets,
    summed.households,
    summed.stores,
    summed.days_sold,
    summed.priced_regular_sales_usd / nullif(summed.units, 0) as regular_price_usd,
    summed.priced_sales_usd / nullif(summed.units, 0) as price_usd,
    (summed.priced_regular_sales_usd - summed.priced_sales_usd) / nullif(summed.priced_regular_sales_usd, 0) as discount_depth,
    coalesce(promotions.display_stores, 0) as display_stores,
    coalesce(promotions.mailer_stores, 0) as mailer_stores,
    coalesce(promotions.promoted_stores, 0) as promoted_stores
from summed
left join promotions using (week, product_id)
