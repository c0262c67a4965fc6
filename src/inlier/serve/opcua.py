"""Tells a line controller by OPC UA, with a handshake in which nothing is taken for another part's result.

Each station has an object. The controller writes Trigger, ResultsAck, Recipe and Lot; the station writes Ready,
ResultsReady, OK, NG, Error and ErrorCode. docs/station.md has the diagram.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from inlier.errors import InlierError
from inlier.serve.config import OpcUa
from inlier.serve.plant import Plant
from inlier.serve.store import Row, now

log = logging.getLogger("inlier")
NAMESPACE = "urn:inlier:station"
LOOK = 0.01  # seconds between two looks at what the controller wrote


class Code(IntEnum):
    NONE = 0
    NO_PICTURE = 1  # none came in time after the trigger
    NOT_JUDGED = 2  # the picture could not be read or judged
    NOT_READY = 3  # the station takes no pictures now
    NO_RECIPE = 4  # there is no station of that number
    NO_VERDICT = 5  # the model has no calibration


@dataclass(frozen=True)
class Inputs:
    """What the controller wrote."""

    trigger: bool = False
    ack: bool = False


@dataclass(frozen=True)
class Outputs:
    """What the controller reads. Ready: a trigger is taken. OK, NG and Error hold while ResultsReady does."""

    ready: bool = False
    results_ready: bool = False
    ok: bool = False
    ng: bool = False
    error: bool = False
    code: Code = Code.NONE
    record: int = 0


@dataclass(frozen=True)
class State:
    """phase: ready -> busy (a picture is awaited) -> results (until acknowledged) -> done (until both inputs fall)."""

    phase: str = "ready"
    outputs: Outputs = Outputs(ready=True)


def step(state: State, inputs: Inputs, problem: bool, result: Outputs | None) -> State:
    """The next state. problem: the station takes nothing. result: of the part that was triggered, once it is there.

    >>> state = step(State(), Inputs(trigger=True), False, None)
    >>> state.phase, state.outputs.ready
    ('busy', False)
    >>> step(state, Inputs(trigger=True), False, Outputs(ok=True)).outputs.results_ready
    True
    """
    if state.phase == "ready":
        if problem:
            return State("ready", Outputs(error=True, code=Code.NOT_READY))
        if inputs.trigger and not inputs.ack and state.outputs.ready:
            return State("busy", Outputs())
        # after a problem a trigger that stood all along is none: it must fall first
        return State("ready", Outputs(ready=state.outputs.ready or not inputs.trigger))
    if state.phase == "busy":
        return state if result is None else State("results", replace(result, results_ready=True))
    if state.phase == "results":
        return State("done", Outputs()) if inputs.ack else state
    return state if inputs.trigger or inputs.ack else State()


def result_of(row: Row) -> Outputs:
    """What a record means for the line."""
    if row["error"] is not None:
        return Outputs(error=True, code=Code.NOT_JUDGED, record=row["id"])
    if row["verdict"] is None:
        return Outputs(error=True, code=Code.NO_VERDICT, record=row["id"])
    return Outputs(ok=row["verdict"] == "good", ng=row["verdict"] == "defect", record=row["id"])


class Handshake:
    """One station's nodes and where its handshake stands."""

    def __init__(self, plant: Plant, name: str, timeout: float):
        self.plant, self.name, self.timeout = plant, name, timeout
        self.state = State()
        self.nodes: dict[str, Any] = {}
        self._awaited: str | None = None  # the station whose next picture is the result
        self._result: Outputs | None = None
        self._since = 0.0
        self._looked = self._triggered = now()  # when was looked last, and before the trigger: as records' times
        self._told: Outputs | None = None  # what the controller reads
        self._fails = False

    async def add(self, server: Any, index: int) -> None:
        from asyncua import ua

        kinds = ua.VariantType
        place = await server.nodes.objects.add_object(index, self.name)
        for name, value, kind in (
            ("Trigger", False, kinds.Boolean),
            ("ResultsAck", False, kinds.Boolean),
            ("Recipe", 0, kinds.UInt16),
            ("Lot", "", kinds.String),
            ("Ready", False, kinds.Boolean),
            ("ResultsReady", False, kinds.Boolean),
            ("OK", False, kinds.Boolean),
            ("NG", False, kinds.Boolean),
            ("Error", False, kinds.Boolean),
            ("ErrorCode", 0, kinds.UInt16),
            ("Record", 0, kinds.Int64),
        ):
            address = ua.NodeId(ua.String(f"{self.name}.{name}"), ua.Int16(index))
            self.nodes[name] = await place.add_variable(address, name, value, kind)
        for name in ("Trigger", "ResultsAck", "Recipe", "Lot"):
            await self.nodes[name].set_writable()
        await self._write(self.state.outputs)

    async def try_to_look(self, seconds: float) -> None:
        """What fails for one station costs no other, and is tried again."""
        try:
            await self.look(seconds)
            self._fails = False
        except Exception:
            if not self._fails:
                log.exception("station %s: opcua", self.name)
            self._fails = True
            if station := self.plant.stations.get(self.name):
                station.problem = "OPC UA: failed; the server's log says how"

    async def look(self, seconds: float) -> None:
        """Once a tick: read what the controller wrote, go on, write what changed. seconds: of the loop's clock."""
        before, self._looked = self._looked, now()
        inputs = Inputs(bool(await self._read("Trigger")), bool(await self._read("ResultsAck")))
        if self.state.phase == "busy" and self._result is None and seconds - self._since > self.timeout:
            self._result = Outputs(error=True, code=Code.NO_PICTURE)
        station = self.plant.stations.get(self.name)
        problem = station is None or bool(station.refusal())
        phase = self.state.phase
        self.state = step(self.state, inputs, problem, self._result)
        if phase == "ready" and self.state.phase == "busy":
            self._since, self._triggered, self._result = seconds, before, None
            await self._begin()
        if self.state.phase != "busy":
            self._awaited = None
        if self.state.outputs != self._told:
            await self._write(self.state.outputs)

    def note(self, rows: list[Row]) -> None:
        """New records: that of the awaited station's first picture after the trigger is the result."""
        for row in rows:
            is_late = row["time"] - 1000 * row["latency"] < self._triggered  # of a part that was triggered before
            if row["station"] == self._awaited and self._result is None and not is_late:
                self._result = result_of(row)

    async def _begin(self) -> None:
        recipe = int(await self._read("Recipe") or 0)
        named = [self.name, *(one.name for one in self.plant.config.stations)][recipe : recipe + 1]
        station = self.plant.stations.get(named[0]) if named else None
        if station is None:
            self._result = Outputs(error=True, code=Code.NO_RECIPE)
            return
        self._awaited = station.name
        station.lot = str(await self._read("Lot") or "")[:200] or None
        station.trigger.set()

    async def _read(self, name: str) -> Any:
        return await self.nodes[name].read_value()

    async def _write(self, told: Outputs) -> None:
        """ResultsReady and Ready last: who sees them may read the rest."""
        from asyncua import ua

        kinds = ua.VariantType
        for name, value, kind in (
            ("OK", told.ok, kinds.Boolean),
            ("NG", told.ng, kinds.Boolean),
            ("Error", told.error, kinds.Boolean),
            ("ErrorCode", int(told.code), kinds.UInt16),
            ("Record", told.record, kinds.Int64),
            ("ResultsReady", told.results_ready, kinds.Boolean),
            ("Ready", told.ready, kinds.Boolean),
        ):
            await self.nodes[name].write_value(ua.Variant(value, kind))
        self._told = told


class LineServer:
    """An OPC UA server on a thread of its own."""

    def __init__(self, plant: Plant, config: OpcUa):
        import asyncua  # noqa: F401 (missing is said as what it is, not by the thread)

        self.plant, self.config = plant, config
        place = f"{config.host}:{config.port}"
        try:  # the server takes seconds to find out
            socket.create_server((config.host, config.port)).close()
        except OSError as error:
            raise InlierError(
                f"opcua: {place}: cannot be used ({error.strerror or error}); choose another port"
            ) from None
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._started: threading.Event = threading.Event()
        self._failed = ""
        self._thread = threading.Thread(target=self._run, name="opcua", daemon=True)
        self._thread.start()
        self._started.wait(30)
        if self._failed:
            raise InlierError(f"opcua: {place}: cannot be served: {self._failed}")

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:
            self._failed = error.strerror or str(error)
        except Exception:
            log.exception("opcua")
            self._failed = "see the log"
        finally:
            self._loop.close()
            self._started.set()

    async def _serve(self) -> None:
        from asyncua import ua
        from asyncua.server.server import Server

        logging.getLogger("asyncua").setLevel(logging.ERROR)
        server = Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://{self.config.host}:{self.config.port}/inlier/")
        server.set_server_name("inlier station")
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        index = await server.register_namespace(NAMESPACE)
        hands = [Handshake(self.plant, name, self.config.timeout) for name in self.plant.stations]
        for hand in hands:
            await hand.add(server, index)

        def listen(rows: list[Row]) -> None:
            for hand in hands:
                hand.note(rows)

        async with server:
            self.plant.listeners.append(listen)
            self._started.set()
            while not self._ended.is_set():
                for hand in hands:
                    await hand.try_to_look(self._loop.time())
                await asyncio.sleep(LOOK)
            self.plant.listeners.remove(listen)
