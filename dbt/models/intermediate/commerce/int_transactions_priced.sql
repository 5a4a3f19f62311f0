with transactions as (

    select * from {{ window_of(ref('stg_commerce__transactions')) }}

),

products as (

    select * from {{ ref('int_products_classified') }}

),

classified as (

    select
        transactions.*,
        coalesce(products.department, 'UNKNOWN') as department,
        coalesce(products.product_category, 'UNKNOWN') as product_category,
        coalesce(products.line_kind, 'merchandise') as line_kind
    from transactions
    left join products using (product_id)

)

select
    cast(sold_at as date) as sold_on,
    sold_at,
    basket_id,
    product_id,
    household_id,
    store_id,
    department,
    product_category,
    line_kind,
    case when line_kind = 'merchandise' then quantity else 0 end as units,
    sales_usd,
    sales_usd + retail_discount_usd + coupon_match_discount_usd as regular_sales_usd,
    coupon_discount_usd,
    line_kind = 'merchandise' and quantity > 0 as is_priced
from classified
