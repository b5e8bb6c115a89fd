"""The controller's durable state: the only place that knows SQLAlchemy."""
