"""Records, actions, the ends of their chains, and messages that wait."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "records",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("station", sa.String(64), nullable=False),
        sa.Column("part", sa.Text),
        sa.Column("lot", sa.Text),
        sa.Column("key", sa.Text),
        sa.Column("picture", sa.String(64), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("score", sa.Float(53)),
        sa.Column("p_value", sa.Float(53)),
        sa.Column("threshold", sa.Float(53)),
        sa.Column("verdict", sa.String(8)),
        sa.Column("error", sa.Text),
        sa.Column("regions", sa.Text, nullable=False),
        sa.Column("latency", sa.Float(53), nullable=False),
        sa.Column("timings", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("label", sa.String(8)),
        sa.Column("kept", sa.Text),
        sa.UniqueConstraint("station", "key", name="records_key"),
    )
    for name, columns in {
        "records_time": ["time", "id"],
        "records_station_time": ["station", "time", "id"],
        "records_station": ["station", "id"],
        "records_verdict": ["station", "verdict", "id"],
        "records_label": ["station", "label", "id"],
        "records_lot": ["station", "lot", "id"],
        "records_model": ["model", "id"],
        "records_kept": ["kept"],
    }.items():
        op.create_index(name, "records", columns)
    op.create_table(
        "actions",
        sa.Column("id", number, primary_key=True, autoincrement=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("what", sa.String(32), nullable=False),
        sa.Column("record", sa.BigInteger),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("actions_record", "actions", ["record"])
    made = op.create_table(
        "ends",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.bulk_insert(made, [{"name": name, "last": 0, "hash": "0" * 64} for name in ("records", "actions")])
    op.create_table(
        "outbox",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("sink", sa.String(128), nullable=False),
        sa.Column("record", sa.BigInteger, nullable=False),
    )
    op.create_index("outbox_sink", "outbox", ["sink", "id"])


def downgrade() -> None:
    for name in ("outbox", "ends", "actions", "records"):
        op.drop_table(name)
