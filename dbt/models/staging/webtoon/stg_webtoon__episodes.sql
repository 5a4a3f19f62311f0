with source as (

    select * from {{ source('webtoon', 'raw_episodes') }}

),

renamed as (

    select
        series_id,
        episode_number,
        {{ local_time('released_at') }} as released_at,
        is_paid,
        coins
    from source

)

select * from renamed
