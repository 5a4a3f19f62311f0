with source as (

    select * from {{ source('commerce', 'raw_transactions') }}

),

renamed as (

    select
        basket_id,
        product_id,
        household_id,
        store_id,
        quantity,
        cast(sales_value as decimal(18, 2)) as sales_usd,
        cast(retail_disc as decimal(18, 2)) as retail_discount_usd,
        cast(coupon_disc as decimal(18, 2)) as coupon_discount_usd,
        cast(coupon_match_disc as decimal(18, 2)) as coupon_match_discount_usd,
        {{ local_time('transaction_timestamp') }} as sold_at,
        partition_key
    from source

)

select * from renamed
