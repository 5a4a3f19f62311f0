with baskets as (

    select
        *,
        cast({{ week_of('day') }} as date) as week
    from {{ window_of(ref('baskets')) }}

),

summed as (

    select
        week,
        household_id,
        count(*) as baskets,
        count(distinct day) as days_shopped,
        count(distinct store_id) as stores,
        cast(sum(units) as bigint) as units,
        cast(sum(sales_usd) as decimal(18, 2)) as sales_usd,
        cast(sum(fuel_sales_usd) as decimal(18, 2)) as fuel_sales_usd,
        cast(sum(discount_usd) as decimal(18, 2)) as discount_usd,
        cast(sum(coupon_discount_usd) as decimal(18, 2)) as coupon_discount_usd
    from baskets
    group by week, household_id

),

campaigns as (

    select
        summed.week,
        summed.household_id,
        count(*) as campaigns
    from summed
    inner join {{ ref('stg_commerce__campaigns') }} as campaigns
        on
            summed.household_id = campaigns.household_id
            and campaigns.started_on < summed.week + 7
            and campaigns.ended_on >= summed.week
    group by summed.week, summed.household_id

),

households as (

    select * from {{ ref('stg_commerce__households') }}

)

select
    summed.*,
    coalesce(campaigns.campaigns, 0) as campaigns,
    coalesce(households.age, 'UNKNOWN') as age,
    coalesce(households.income, 'UNKNOWN') as income
from summed
left join campaigns using (week, household_id)
left join households using (household_id)
