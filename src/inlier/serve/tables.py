"""The tables, as the newest migration leaves them."""

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text, UniqueConstraint

metadata = MetaData()
Number = BigInteger().with_variant(Integer, "sqlite")  # SQLite's own row number is an INTEGER

# one row an inspection; what is not in CHANGING is never written again
records = Table(
    "records",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=False),
    # microseconds since 1970, UTC; the clock may be set back, ids never are
    Column("time", BigInteger, nullable=False),
    Column("station", String(64), nullable=False),
    Column("part", Text),
    Column("lot", Text),
    Column("key", Text),  # the sender's own number of the inspection: sent again, it is the same record
    Column("picture", String(64), nullable=False),  # sha256 of the bytes that came
    Column("model", String(64), nullable=False),  # sha256 of the file
    Column("settings", Text, nullable=False),  # JSON: what else decided, such as alpha and region
    Column("score", Float(53)),
    Column("p_value", Float(53)),
    Column("threshold", Float(53)),
    Column("verdict", String(8)),  # good, defect; empty without calibration, and where there is an error
    Column("error", Text),  # why it could not be judged
    Column("regions", Text, nullable=False),  # JSON
    Column("latency", Float(53), nullable=False),  # milliseconds from its arrival to its verdict
    Column("timings", Text, nullable=False),  # JSON, milliseconds
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("label", String(8)),  # the last one; all of them are actions
    Column("kept", Text),  # the picture's file, below the folder of pictures
    UniqueConstraint("station", "key", name="records_key"),
    Index("records_time", "time", "id"),
    Index("records_station_time", "station", "time", "id"),
    Index("records_station", "station", "id"),
    Index("records_verdict", "station", "verdict", "id"),
    Index("records_label", "station", "label", "id"),
    Index("records_lot", "station", "lot", "id"),
    Index("records_model", "model", "id"),
    Index("records_kept", "kept"),
)
CHANGING = ("label", "kept")

# what people did: labels, calibrations, reloads
actions = Table(
    "actions",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("time", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("what", String(32), nullable=False),
    Column("record", BigInteger),
    Column("details", Text, nullable=False),  # JSON
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("actions_record", "record"),
)

# number and hash of the last row of each chain: rows that vanish from its end show, and writers take turns
ends = Table(
    "ends",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("last", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)

# messages that a sink has not taken yet, written in one transaction with their records
outbox = Table(
    "outbox",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("sink", String(128), nullable=False),
    Column("record", BigInteger, nullable=False),
    Index("outbox_sink", "sink", "id"),
)
