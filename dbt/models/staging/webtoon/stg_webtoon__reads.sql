with source as (

    select * from {{ source('webtoon', 'raw_reads') }}

),

renamed as (

    select
        read_id,
        reader_id,
        series_id,
        episode_number,
        {{ local_time('started_at') }} as started_at,
        seconds_read,
        completion,
        is_paid,
        coins,
        device,
        partition_key
    from source

)

select * from renamed
