"""Everything that the API's own description allows, and much that it does not: no answer is a failure of the server."""

import pytest
from hypothesis import HealthCheck, given, settings

from inlier.serve.app import make_app
from test_station import open_plant, pictures

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")


@pytest.fixture(scope="module")
def schema(plate_model, tmp_path_factory):
    plant = open_plant(tmp_path_factory.mktemp("api"), plate_model)
    for raw in pictures():
        plant.stations["press"].inspect(raw).result()
    yield schemathesis.openapi.from_asgi("/openapi.json", make_app(plant), headers={"Host": "localhost"})
    plant.close()


def tried(operation):
    """The codes of some requests that the description of an operation allows."""
    codes = set()

    @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def send(case):
        answer = case.call(headers={"Host": "localhost"})
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)
        codes.add(answer.status_code)

    send()
    return codes


def test_nothing_that_is_sent_makes_the_server_fail(schema):
    operations = [result.ok() for result in schema.get_all_operations()]
    codes = {f"{one.method.upper()} {one.path}": tried(one) for one in operations}
    assert len(codes) >= 16
    for words in ("GET /v1/records", "GET /v1/export", "GET /v1/actions", "GET /v1/stations"):
        assert 200 in codes[words], (words, codes[words])


def test_the_description_names_everything(schema):
    paths = set(schema.raw_schema["paths"])
    assert {"/v1/stations/{name}/inspect", "/v1/stations/{name}/batch", "/v1/records", "/v1/export"} <= paths
