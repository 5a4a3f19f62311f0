with source as (

    select * from {{ source('commerce', 'raw_promotions') }}

),

renamed as (

    select
        product_id,
        store_id,
        display_location,
        mailer_location,
        date '2016-12-26' + cast(7 * (week - 1) as integer) as week,
        partition_key
    from source

)

select * from renamed
