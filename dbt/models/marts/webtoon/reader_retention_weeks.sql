with active as (

    select distinct
        cast({{ week_of('day') }} as date) as week,
        reader_id
    from {{ window_of(ref('reader_days')) }}

),

spans as (

    select unnest([1, 2, 3]) as weeks_since

),

returns as (

    select
        cohorts.week + spans.weeks_since * 7 as week,
        cohorts.week as cohort_week,
        cast(spans.weeks_since as bigint) as weeks_since,
        cohorts.reader_id,
        active.reader_id is not null as is_retained
    from active as cohorts
    cross join spans
    left join active
        on
            cohorts.reader_id = active.reader_id
            and cohorts.week + spans.weeks_since * 7 = active.week

)

select
    week,
    weeks_since,
    cohort_week,
    count(*) as cohort_readers,
    count(*) filter (is_retained) as retained_readers,
    count(*) filter (is_retained) / count(*) as retention_rate
from returns
where week in (select active.week from active) and {{ is_in_window() }}
group by week, weeks_since, cohort_week
