with reads as (

    select * from {{ window_of(ref('int_reads_sessionized')) }}

),

series as (

    select
        cast(hour as date) as day,
        reader_id,
        series_id,
        count(distinct episode_number) as episodes,
        count(*) as reads,
        count(*) filter (starts_session) as sessions,
        count(*) filter (is_completed) as completed_reads,
        count(*) filter (is_paid) as paid_reads,
        sum(seconds_read) as seconds_read,
        sum(coins) as coins
    from reads
    group by cast(hour as date), reader_id, series_id

)

select
    day,
    reader_id,
    cast(sum(sessions) as bigint) as sessions,
    cast(sum(reads) as bigint) as reads,
    count(*) as series,
    cast(sum(episodes) as bigint) as episodes,
    max(episodes) as binge_episodes,
    cast(sum(completed_reads) as bigint) as completed_reads,
    cast(sum(paid_reads) as bigint) as paid_reads,
    cast(sum(seconds_read) as bigint) as seconds_read,
    cast(sum(coins) as bigint) as coins
from series
group by day, reader_id
