with source as (

    select * from {{ source('commerce', 'raw_households') }}

),

renamed as (

    select
        household_id,
        age,
        income,
        home_ownership,
        marital_status,
        household_size,
        household_comp as household_composition,
        kids_count
    from source

)

select * from renamed
