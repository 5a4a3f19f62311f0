-- A day's reads are the same by reader and by episode.
{{ config(meta={'partitions': 'daily', 'dagster': {'ref': {'name': 'reader_days'}}}) }}

with
readers as (

    select
        partition_key,
        sum(reads) as reads
    from {{ window_of(ref('reader_days')) }}
    group by partition_key

),

episodes as (

    select
        partition_key,
        sum(reads) as reads
    from {{ window_of(ref('episode_days')) }}
    group by partition_key

)

select *
from readers
full join episodes using (partition_key)
where readers.reads is distinct from episodes.reads
