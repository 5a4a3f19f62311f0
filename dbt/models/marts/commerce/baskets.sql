with lines as (

    select * from {{ window_of(ref('int_transactions_priced')) }}

)

select
    sold_on as day,
    basket_id,
    household_id,
    store_id,
    min(sold_at) as sold_at,
    count(*) as products,
    cast(sum(units) as bigint) as units,
    cast(sum(sales_usd) as decimal(18, 2)) as sales_usd,
    cast(coalesce(sum(sales_usd) filter (line_kind = 'fuel'), 0) as decimal(18, 2)) as fuel_sales_usd,
    cast(sum(regular_sales_usd - sales_usd) as decimal(18, 2)) as discount_usd,
    cast(sum(coupon_discount_usd) as decimal(18, 2)) as coupon_discount_usd
from lines
group by sold_on, basket_id, household_id, store_id
