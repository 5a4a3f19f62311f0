with lines as (

    select * from {{ window_of(ref('int_transactions_priced')) }}
    where line_kind = 'merchandise'

),

summed as (

    select
        sold_on as day,
        product_id,
        department,
        product_category,
        cast(sum(units) as bigint) as units,
        cast(sum(sales_usd) as decimal(18, 2)) as sales_usd,
        sum(sales_usd) filter (is_priced) as priced_sales_usd,
        sum(regular_sales_usd) filter (is_priced) as priced_regular_sales_usd,
        count(distinct basket_id) as baskets,
        count(distinct household_id) as households,
        count(distinct store_id) as stores
    from lines
    group by sold_on, product_id, department, product_category

)

select
    day,
    product_id,
    department,
    product_category,
    units,
    sales_usd,
    baskets,
    households,
    stores,
    priced_regular_sales_usd / nullif(units, 0) as regular_price_usd,
    priced_sales_usd / nullif(units, 0) as price_usd,
    (priced_regular_sales_usd - priced_sales_usd) / nullif(priced_regular_sales_usd, 0) as discount_depth
from summed
