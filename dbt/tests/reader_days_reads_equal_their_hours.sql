-- A day's reads by reader are those of its hours.
{{ config(meta={'partitions': 'daily', 'dagster': {'ref': {'name': 'reader_days'}}}) }}

with
readers as (

    select
        partition_key,
        sum(reads) as reads
    from {{ window_of(ref('reader_days')) }}
    group by partition_key

),

hours as (

    select
        strftime(hour, '%Y-%m-%d') as partition_key,
        count(*) as reads
    from {{ window_of(ref('int_reads_sessionized')) }}
    group by 1

)

select *
from readers
full join hours using (partition_key)
where readers.reads is distinct from hours.reads
