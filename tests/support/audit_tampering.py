"""Whoever owns the database can take the audit log's triggers away. Tests do what they would."""

from sqlalchemy import Connection, text


def unlock(tx: Connection) -> None:
    """From here on the audit log can be changed, which the database refuses otherwise."""
    if tx.dialect.name == "postgresql":
        tx.execute(text("ALTER TABLE audit DISABLE TRIGGER ALL"))
        tx.execute(text("ALTER TABLE audit_heads DISABLE TRIGGER ALL"))
        return
    for table in ("audit", "audit_heads"):
        for verb in ("update", "delete", "replace"):
            tx.execute(text(f"DROP TRIGGER IF EXISTS {table}_no_{verb}"))
