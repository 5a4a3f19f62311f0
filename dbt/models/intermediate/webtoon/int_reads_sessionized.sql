with reads as (

    select * from {{ window_of(ref('stg_webtoon__reads')) }}

),

followed as (

    select
        *,
        date_trunc('hour', started_at) as hour,
        lag(started_at) over (partition by reader_id order by started_at, read_id) as previous_started_at
    from reads

)

select
    hour,
    read_id,
    reader_id,
    series_id,
    episode_number,
    started_at,
    seconds_read,
    completion >= 0.9 as is_completed,
    is_paid,
    coins,
    coalesce(started_at - previous_started_at > interval 30 minutes, true) as starts_session
from followed
where {{ is_in_window() }}
