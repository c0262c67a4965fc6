"""The handshake with a line controller, walked by a real OPC UA client."""

import asyncio
import threading

import pytest
from asyncua import Client, ua

from inlier.errors import InlierError
from inlier.serve.config import OpcUa, checked
from inlier.serve.opcua import NAMESPACE, Code, Handshake, Inputs, LineServer, Outputs, State, step
from test_line import free_port
from test_station import open_plant, pictures

OUT = ("Ready", "ResultsReady", "OK", "NG", "Error", "ErrorCode")


def walk(state, *inputs, problem=False, result=None):
    for one in inputs:
        state = step(state, one, problem, result)
    return state


def test_the_states_follow_the_diagram():
    both, trigger, ack, none = Inputs(True, True), Inputs(True), Inputs(ack=True), Inputs()
    busy = walk(State(), none, trigger)
    assert (busy.phase, busy.outputs) == ("busy", Outputs())
    assert walk(busy, none, ack, both).phase == "busy"  # nothing but a result ends it
    results = step(busy, trigger, False, Outputs(ng=True, record=7))
    assert (results.phase, results.outputs) == ("results", Outputs(results_ready=True, ng=True, record=7))
    assert walk(results, trigger, none, trigger) == results  # nobody has read it yet
    done = walk(results, both)
    assert (done.phase, done.outputs) == ("done", Outputs())
    assert walk(done, both, trigger, ack).phase == "done"  # both must fall
    assert walk(done, none) == State()


def test_no_part_is_triggered_twice_and_none_while_there_is_a_problem():
    trigger, none = Inputs(True), Inputs()
    broken = step(State(), none, True, None)
    assert broken.outputs == Outputs(error=True, code=Code.NOT_READY)
    waiting = walk(broken, trigger, trigger)  # it stood while there was a problem: it must fall first
    assert waiting.phase == "ready" and not waiting.outputs.ready
    assert walk(waiting, none, trigger).phase == "busy"
    assert step(State(), Inputs(True, True), False, None).phase == "ready"  # an old acknowledgement still stands


@pytest.fixture(scope="module")
def line(plate_model, tmp_path_factory):
    """(the plant, address of its OPC UA server): stations `press` and `saw`."""
    stations = [{"name": name, "model": str(plate_model)} for name in ("press", "saw")]
    plant = open_plant(tmp_path_factory.mktemp("line"), plate_model, stations=stations)
    config = OpcUa(port=free_port(), timeout=1.0)
    server = LineServer(plant, config)
    yield plant, f"opc.tcp://127.0.0.1:{config.port}/inlier/"
    server.close()
    plant.close()


class Controller:
    """What a line controller does."""

    def __init__(self, client, index, station="press"):
        self.client, self.index, self.station = client, index, station

    def node(self, name):
        return self.client.get_node(ua.NodeId(f"{self.station}.{name}", self.index))

    async def write(self, name, value, kind=ua.VariantType.Boolean):
        await self.node(name).write_value(ua.Variant(value, kind))

    async def read(self):
        return {name: await self.node(name).read_value() for name in OUT}

    async def until(self, name, seconds=10):
        for _ in range(int(seconds / 0.02)):
            if await self.node(name).read_value():
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{name} did not come")

    async def finish(self):
        """Acknowledge, and let both inputs fall."""
        await self.write("ResultsAck", True)
        await asyncio.sleep(0.1)
        assert not any((await self.read()).values())
        await self.write("Trigger", False)
        await self.write("ResultsAck", False)
        await self.until("Ready")


def with_controller(address, do):
    async def run():
        async with Client(address) as client:
            await do(Controller(client, await client.get_namespace_index(NAMESPACE)))

    asyncio.run(run())


def test_a_controller_walks_good_and_defect_parts(line):
    plant, address = line
    good, defect = pictures()[0], pictures()[-1]
    expected = {raw: plant.stations["saw"].inspect(raw).result()["verdict"] for raw in (good, defect)}

    async def do(controller):
        await controller.until("Ready")
        await controller.write("Lot", "L-7", ua.VariantType.String)
        for raw in (good, defect, good):
            await controller.write("Trigger", True)
            await asyncio.sleep(0.1)
            assert not any((await controller.read()).values())  # busy
            plant.stations["press"].inspect(raw)
            await controller.until("ResultsReady")
            told = await controller.read()
            assert (told["OK"], told["NG"]) == (expected[raw] == "good", expected[raw] == "defect")
            assert not told["Ready"] and not told["Error"]
            record = plant.store.record(await controller.node("Record").read_value())
            assert (record["station"], record["lot"], record["verdict"]) == ("press", "L-7", expected[raw])
            await controller.finish()

    with_controller(address, do)


def test_what_goes_wrong_is_told_by_a_code(line):
    plant, address = line

    async def trigger(controller, code):
        await controller.write("Trigger", True)
        await controller.until("ResultsReady")
        told = await controller.read()
        assert told["Error"] and told["ErrorCode"] == code and not told["OK"] and not told["NG"]
        await controller.finish()

    async def do(controller):
        await controller.until("Ready")
        await trigger(controller, Code.NO_PICTURE)
        await controller.write("Recipe", 9, ua.VariantType.UInt16)
        await trigger(controller, Code.NO_RECIPE)
        await controller.write("Recipe", 2, ua.VariantType.UInt16)  # the second station judges
        await controller.write("Trigger", True)
        await asyncio.sleep(0.1)
        plant.stations["press"].inspect(pictures()[0]).result()  # another station's part is no answer
        plant.stations["saw"].inspect(b"damaged")
        await controller.until("ResultsReady")
        assert (await controller.read())["ErrorCode"] == Code.NOT_JUDGED
        await controller.finish()
        plant.stations["press"].refusal = lambda: "the broker is away"
        await controller.until("Error")
        told = await controller.read()
        assert told["ErrorCode"] == Code.NOT_READY and not told["Ready"]
        plant.stations["press"].refusal = lambda: ""
        await controller.until("Ready")

    with_controller(address, do)


@pytest.fixture
def served(plate_model, tmp_path):
    """Starts a plant of its own with `press` and `saw`, and its OPC UA server; (plant, server, address)."""
    started = []

    def start():
        stations = [{"name": name, "model": str(plate_model)} for name in ("press", "saw")]
        plant, config = open_plant(tmp_path, plate_model, stations=stations), OpcUa(port=free_port(), timeout=20.0)
        started.append((plant, LineServer(plant, config), f"opc.tcp://127.0.0.1:{config.port}/inlier/"))
        return started[-1]

    yield start
    for plant, server, _ in started:
        server.close()
        plant.close()


def test_the_record_of_a_part_before_is_no_answer_for_the_next_one(served, monkeypatch):
    plant, _, address = served()
    written, add = threading.Event(), plant.store.add
    monkeypatch.setattr(plant.store, "add", lambda *rows: written.wait(20) and add(*rows))

    async def do(controller):
        await controller.until("Ready")
        late = plant.stations["press"].inspect(pictures()[-1])
        await asyncio.sleep(0.3)
        await controller.write("Trigger", True)
        await asyncio.sleep(0.3)
        written.set()
        number = (await asyncio.wrap_future(late))["id"]
        await asyncio.sleep(0.3)
        assert not (await controller.read())["ResultsReady"]
        plant.stations["press"].inspect(pictures()[0])
        await controller.until("ResultsReady")
        assert await controller.node("Record").read_value() == number + 1

    with_controller(address, do)


def test_what_fails_for_one_station_costs_no_other_and_is_tried_again(served, monkeypatch):
    look, failing = Handshake.look, [True]

    async def fails(self, seconds):
        if self.name == "press" and failing:
            raise RuntimeError("unforeseen")
        await look(self, seconds)

    monkeypatch.setattr(Handshake, "look", fails)
    plant, _, address = served()

    async def do(controller):
        saw = Controller(controller.client, controller.index, "saw")
        await saw.write("Trigger", True)
        await asyncio.sleep(0.2)
        plant.stations["saw"].inspect(pictures()[0])
        await saw.until("ResultsReady")
        assert "OPC UA: failed" in plant.stations["press"].problem
        failing.clear()
        await controller.write("Trigger", True)
        await asyncio.sleep(0.2)
        plant.stations["press"].inspect(pictures()[0])
        await controller.until("ResultsReady")

    with_controller(address, do)


def test_a_server_that_ended_by_itself_is_closed_like_any_other(served, monkeypatch):
    plant, server, _ = served()

    async def ends(self, seconds):
        if self.plant is plant:
            raise RuntimeError("unforeseen")

    monkeypatch.setattr(Handshake, "try_to_look", ends)
    server._thread.join(20)
    assert not server._thread.is_alive()
    server.close()


def test_a_recipe_is_the_station_of_that_number_in_the_file(served, plate_model):
    plant, _, address = served()
    names = ("mill", "press", "saw")  # the first is added while the others run
    stations = [{"name": name, "model": str(plate_model)} for name in names]
    plant.apply(checked({"server": {"data": str(plant.folder)}, "stations": stations}, "station.toml"))

    async def do(controller):
        await controller.write("Recipe", 1, ua.VariantType.UInt16)
        await controller.write("Trigger", True)
        await asyncio.sleep(0.2)
        plant.stations["mill"].inspect(pictures()[0])
        await controller.until("ResultsReady")

    with_controller(address, do)


def test_a_controller_cannot_write_what_the_station_says(line):
    async def do(controller):
        with pytest.raises(ua.UaStatusCodeError):
            await controller.write("OK", True)

    with_controller(line[1], do)


def test_a_port_that_is_taken_is_told(line):
    plant, address = line
    with pytest.raises(InlierError, match="choose another port"):
        LineServer(plant, OpcUa(port=int(address.split(":")[2].split("/")[0])))
