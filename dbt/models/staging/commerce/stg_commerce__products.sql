with source as (

    select * from {{ source('commerce', 'raw_products') }}

),

renamed as (

    select
        product_id,
        manufacturer_id,
        department,
        brand,
        product_category,
        product_type,
        package_size
    from source

)

select * from renamed
