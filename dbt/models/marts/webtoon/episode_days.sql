with reads as (

    select * from {{ window_of(ref('int_reads_sessionized')) }}

),

summed as (

    select
        cast(hour as date) as day,
        series_id,
        episode_number,
        count(distinct reader_id) as readers,
        count(*) as reads,
        count(*) filter (is_completed) as completed_reads,
        count(*) filter (is_paid) as paid_reads,
        cast(sum(seconds_read) as bigint) as seconds_read,
        cast(sum(coins) as bigint) as coins
    from reads
    group by cast(hour as date), series_id, episode_number

),

episodes as (

    select * from {{ ref('stg_webtoon__episodes') }}

)

select
    summed.*,
    summed.completed_reads / summed.reads as completion_rate,
    summed.day - cast(episodes.released_at as date) as days_since_release
from summed
left join episodes using (series_id, episode_number)
