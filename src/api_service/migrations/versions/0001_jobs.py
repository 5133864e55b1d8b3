"""Jobs and their events."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None
branch_labels = depends_on = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("filename", sa.String(200), nullable=False),
        sa.Column("idempotency_key", sa.String(100), unique=True),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("category", sa.String(100)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("lease_until", sa.Float),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("progress", sa.JSON),
        sa.Column("problem", sa.JSON),
        sa.Column("report", sa.JSON),
        sa.Column("container", sa.String(8)),
        sa.Column("result_bytes", sa.BigInteger),
        sa.Column("result_sha256", sa.String(64)),
    )
    op.create_index("jobs_by_state", "jobs", ["state", "created_at"])
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("event", sa.String(10), nullable=False),
        sa.Column("data", sa.JSON),
    )
