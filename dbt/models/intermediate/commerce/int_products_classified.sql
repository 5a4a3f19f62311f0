with products as (

    select * from {{ ref('stg_commerce__products') }}

)

select
    product_id,
    department,
    product_category,
    case
        when department = 'FUEL' or product_category = 'FUEL' or starts_with(product_type, 'GASOLINE') then 'fuel'
        when department = 'COUPON' or starts_with(product_category, 'COUPON') then 'coupon_or_misc'
        else 'merchandise'
    end as line_kind
from products
