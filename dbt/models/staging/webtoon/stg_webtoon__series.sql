with source as (

    select * from {{ source('webtoon', 'raw_series') }}

),

renamed as (

    select
        series_id,
        title,
        genre,
        release_weekday,
        first_released_on
    from source

)

select * from renamed
