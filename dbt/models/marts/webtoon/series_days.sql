with reads as (

    select * from {{ window_of(ref('int_reads_sessionized')) }}

),

summed as (

    select
        cast(hour as date) as day,
        series_id,
        count(distinct reader_id) as readers,
        count(distinct episode_number) as episodes,
        count(*) as reads,
        count(*) filter (is_completed) as completed_reads,
        count(*) filter (is_paid) as paid_reads,
        cast(sum(seconds_read) as bigint) as seconds_read,
        cast(sum(coins) as bigint) as coins
    from reads
    group by cast(hour as date), series_id

),

series as (

    select * from {{ ref('stg_webtoon__series') }}

)

select
    summed.*,
    coalesce(series.title, 'UNKNOWN') as title,
    coalesce(series.genre, 'UNKNOWN') as genre
from summed
left join series using (series_id)
