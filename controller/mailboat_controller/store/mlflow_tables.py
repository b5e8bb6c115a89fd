"""The tables of MLflow's webhooks: what was told and not looked at yet, and how many came."""

from sqlalchemy import BigInteger, Column, Integer, String, Table

from mailboat_controller.store.table_names import metadata

mlflow_notices = Table(
    "mlflow_notices",
    metadata,
    Column(
        "number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("delivery", String(64), nullable=False, unique=True),  # MLflow's id of it
    Column("registered", String(128), nullable=False),
    Column("alias", String(128), nullable=False),
    Column("at", BigInteger, nullable=False),
    sqlite_autoincrement=True,  # a number is never given twice, whatever was deleted
)

mlflow_counts = Table(
    "mlflow_counts",
    metadata,
    Column("result", String(16), primary_key=True),
    Column("times", BigInteger, nullable=False),
)
