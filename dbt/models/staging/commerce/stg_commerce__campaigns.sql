with source as (

    select * from {{ source('commerce', 'raw_campaigns') }}

),

renamed as (

    select
        campaign_id,
        household_id,
        campaign_type,
        start_date as started_on,
        end_date as ended_on
    from source

)

select * from renamed
