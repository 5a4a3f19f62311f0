"""Feast knows what is declared, and answers as the platform's own readers do."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureView, OnDemandFeatureView
from feast.value_type import ValueType

from ml_assets.features.catalogue import Catalogue, catalogue
from ml_assets.features.feast_objects import FeastObject, feast_objects
from ml_assets.features.feast_store import apply, feature_store
from ml_assets.features.joins import served_view
from ml_assets.features.materialization import materialize
from ml_assets.features.types import TYPES
from ml_assets.pricing.project import PRODUCT_DEMAND
from platform_assets.instance.services import prepare
from resources.environment import REPOSITORY, Environment
from resources.feature_store.feast_settings import PROJECT
from resources.feature_store.lake_source import holds, value_type_of
from resources.feature_store.online_resource import OnlineStore
from resources.feature_store.online_store import served_view as feast_served_view
from resources.warehouse import Commit, Warehouse
from tests.ml_assets.features.grocery import BEFORE, DISCOUNT, PRICES, WEEKS, Grocery

pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")

OBJECTS = feast_objects(catalogue())
VIEWS = [one for one in OBJECTS.values() if isinstance(one, FeatureView)]


def feast(environment: Environment, *arguments: str) -> str:
    """What the command `feast` prints."""
    command = [str(Path(sys.executable).with_name("feast")), *arguments]
    done = subprocess.run(
        command,
        env={**environment.variables, "PATH": "", "PYTHONPATH": ":".join([str(REPOSITORY), *sys.path])},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", OBJECTS)
def test_what_feast_keeps_of_an_object_is_the_object(name: str) -> None:
    one: FeastObject = OBJECTS[name]
    assert type(one).from_proto(one.to_proto()) == one


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_feast_and_our_reader_find_the_same_rows(view: FeatureView) -> None:
    ours, theirs = served_view(catalogue().view(view.name)), feast_served_view(view, PROJECT)
    assert ours.stored_as == theirs.stored_as
    assert (ours.join_keys, ours.ttl) == (theirs.join_keys, theirs.ttl)
    assert ours.schema == theirs.schema


def test_every_object_is_described_and_owned() -> None:
    for one in OBJECTS.values():
        assert one.description, one.name
        if not isinstance(one, Entity):
            assert one.owner == "team:commerce", one.name


def test_the_feast_command_applies_and_lists_what_is_declared(environment: Environment) -> None:
    prepare(environment)
    warehouse = Warehouse.of(environment)
    for view in catalogue().views:
        columns = ", ".join(f'null::{kinds[0]} as "{name}"' for name, kinds in view.read_columns.items())
        sql = f"select {columns}, '' as partition_key limit 0"
        warehouse.replace_partitions(view.table, [], lambda lake, sql=sql: lake.sql(sql), Commit("test", view.source))  # type: ignore[misc]
    settings = environment.feast / "feature_store.yaml"
    assert "password" not in settings.read_text()
    feast(environment, "-c", "ml_assets/features/feast_repo", "-f", str(settings), "apply")
    listed = feast(environment, "-c", str(environment.feast), "feature-views", "list")
    listed += feast(environment, "-c", str(environment.feast), "feature-services", "list")
    listed += feast(environment, "-c", str(environment.feast), "on-demand-feature-views", "list")
    listed += feast(environment, "-c", str(environment.feast), "entities", "list")
    declared = catalogue()
    for one in (*declared.views, *declared.transforms, *declared.services, *declared.entities):
        assert one.name in listed


def test_applying_takes_out_what_is_declared_no_longer(environment: Environment) -> None:
    store = feature_store(environment)
    environment.feast.mkdir(parents=True)
    store.apply(list(feast_objects(Catalogue((PRICES,), (DISCOUNT,))).values()))
    apply(environment)
    names = {view.name for view in feature_store(environment).list_feature_views()}
    assert names == {view.name for view in catalogue().views}
    apply(environment)


def test_feast_answers_online_and_offline_alike_with_the_transform(grocery: Grocery) -> None:
    environment = grocery.environment
    grocery.write({week: grocery.rows.get(week, []) for week in [*BEFORE, *WEEKS]})
    with grocery.warehouse.reader() as lake:
        materialize(lake, PRICES, OnlineStore.of(environment).rows(), WEEKS)
    instant = PRICES.known_at(WEEKS[-1]) + timedelta(days=2)
    store = feature_store(environment, now=instant)
    environment.feast.mkdir(parents=True)
    store.apply(list(feast_objects(Catalogue((PRICES,), (DISCOUNT,))).values()))
    products, prices = [*range(1, 20), 99], [one / 2 for one in range(20)]
    features = [*PRICES.select().references, "proposed:proposed_discount"]
    asked = [
        {"product_id": product, "proposed_price_usd": price} for product, price in zip(products, prices, strict=True)
    ]
    online = store.get_online_features(features, entity_rows=asked).to_dict()
    training = pd.DataFrame(asked).assign(event_timestamp=instant)
    offline = store.get_historical_features(training, features).to_arrow().to_pydict()
    for name in (feature.rpartition(":")[2] for feature in features):
        assert online[name] == offline[name], name
    assert online["regular_price_usd"][1] == 2 + 5 / 4
    assert online["proposed_discount"][1] == DISCOUNT.function(prices[1], 2 + 5 / 4)
    assert online["proposed_discount"][-1] is None


def test_a_service_names_all_that_pricing_needs() -> None:
    (service,) = [one for one in OBJECTS.values() if isinstance(one, FeatureService) and one.name == "pricing"]
    projections = service.feature_view_projections
    asked = {f"{projection.name}:{field.name}" for projection in projections for field in projection.features}
    assert {"product_prices:price_usd", "category_demand:category_units"} <= asked
    assert "price_proposal_discount:proposed_discount" in asked
    assert any(isinstance(one, OnDemandFeatureView) for one in OBJECTS.values())


def test_the_demand_model_reads_what_the_service_of_its_name_serves() -> None:
    (service,) = [one for one in OBJECTS.values() if isinstance(one, FeatureService) and one.name == "demand"]
    served = [field.name for projection in service.feature_view_projections for field in projection.features]
    assert served == list(PRODUCT_DEMAND.feature_names)


@pytest.mark.parametrize("name", TYPES)
def test_a_declared_type_takes_what_the_offline_store_takes(name: str) -> None:
    declared = TYPES[name]
    for stored in {one for kind in TYPES.values() for one in kind.holds}:
        # An enumeration has its values in its type.
        assert declared.accepts(stored) == holds(ValueType[declared.feast], value_type_of(stored)), stored
