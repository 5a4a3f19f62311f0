with promotions as (

    select * from {{ window_of(ref('stg_commerce__promotions')) }}

),

stores as (

    select
        week,
        product_id,
        store_id,
        bool_or(display_location <> '0') as is_on_display,
        bool_or(mailer_location <> '0') as is_in_mailer
    from promotions
    group by week, product_id, store_id

)

select
    week,
    product_id,
    count(*) filter (is_on_display) as display_stores,
    count(*) filter (is_in_mailer) as mailer_stores,
    count(*) filter (is_on_display or is_in_mailer) as promoted_stores
from stores
group by week, product_id
