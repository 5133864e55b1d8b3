"""Jobs have owners, wishes beside seed and category, a size and a link to share; API keys."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"
branch_labels = depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("owner", sa.String(80), nullable=False, server_default=""),
        sa.Column("wishes", sa.JSON, nullable=False, server_default="{}"),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("share_nonce", sa.String(32)),
        sa.Column("share_hash", sa.String(64)),
    ):
        op.add_column("jobs", column)
    jobs = sa.table(
        "jobs",
        *(
            sa.column(name, kind)
            for name, kind in (("id", sa.String), ("seed", sa.BigInteger), ("category", sa.String), ("wishes", sa.JSON))
        ),
    )
    db = op.get_bind()
    for row in db.execute(sa.select(jobs)).all():
        wishes = {"seed": row.seed} | ({"category": row.category} if row.category else {})
        db.execute(sa.update(jobs).where(jobs.c.id == row.id).values(wishes=wishes))
    op.drop_column("jobs", "seed")
    op.drop_column("jobs", "category")
    op.create_index("jobs_by_owner", "jobs", ["owner", "created_at"])
    op.create_index("jobs_by_share", "jobs", ["share_hash"], unique=True)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
    )
