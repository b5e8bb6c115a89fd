"""The tables of device logs: who asked for what, and the lines that came."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, String, Table, Text

from mailboat_controller.store.table_names import metadata

log_requests = Table(
    "log_requests",
    metadata,
    Column("request", String(16), primary_key=True),
    Column("device", String(63), nullable=False),
    Column("asked_by", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("since", BigInteger, nullable=False),  # by the device's clock; 0: all there is
    Column("follow_seconds", Integer, nullable=False),
    Column("counter", BigInteger, nullable=False),  # of the order to the device
    Column("withdrawn", Boolean, nullable=False),  # the device was told that it is over
    Column("lines", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("withheld", BigInteger, nullable=False),  # lines the device could not keep
    Column("answered_at", BigInteger, nullable=True),  # when the first line came
    Column("completed_at", BigInteger, nullable=True),
)
Index("ix_log_requests_device", log_requests.c.device, log_requests.c.asked_at)

log_lines = Table(
    "log_lines",
    metadata,
    Column("request", String(16), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),  # by the device's clock
    Column("level", String(16), nullable=False),
    Column("logger", String(128), nullable=False),
    Column("message", Text, nullable=False),
    Column("trace", String(32), nullable=False),
)
