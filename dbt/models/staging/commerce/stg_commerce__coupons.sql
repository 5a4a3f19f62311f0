with source as (

    select * from {{ source('commerce', 'raw_coupons') }}

),

renamed as (

    select
        coupon_upc,
        product_id,
        campaign_id
    from source

)

select * from renamed
