with lines as (

    select * from {{ window_of(ref('int_transactions_priced')) }}

)

select
    sold_on as day,
    department,
    product_category,
    count(distinct product_id) as products,
    cast(sum(units) as bigint) as units,
    cast(sum(sales_usd) as decimal(18, 2)) as sales_usd,
    cast(sum(regular_sales_usd - sales_usd) as decimal(18, 2)) as discount_usd,
    count(distinct basket_id) as baskets,
    count(distinct household_id) as households,
    count(distinct store_id) as stores
from lines
group by sold_on, department, product_category
