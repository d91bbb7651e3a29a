"""Jobs have owners and wait without a lease, devices belong to a token, p90 has an interval of its own, and processes
say that they are alive."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
# Manifests of uploads had no bound before this version, and every list of models carries them.
MAX_MANIFEST_CHARS = 100_000
LENGTH = "length(CAST(manifest AS TEXT))"
CUT = """'{"note": "the inputs and outputs of this file took too much space: upload it again with short names"}'"""


def upgrade() -> None:
    op.add_column("job", sa.Column("owner", sa.String(), nullable=True))
    op.add_column("job", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    op.add_column("job", sa.Column("waits_for", sa.JSON(), nullable=True))
    op.add_column("job", sa.Column("wait_reason", sa.String(), nullable=True))
    op.add_column("job", sa.Column("wait_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("job", sa.Column("checkpoint", sa.JSON(), nullable=True))
    op.add_column("job", sa.Column("same_as", sa.String(), nullable=True))
    op.add_column("job", sa.Column("retry_of", sa.String(), nullable=True))
    op.create_index("ix_job_owner", "job", ["owner", "status"])
    op.create_index("ix_job_served", "job", ["owner", "started_at"])
    op.create_index("ix_job_wait_until", "job", ["wait_until"])
    op.create_index("ix_job_same_as", "job", ["same_as"])
    op.create_index("ix_idempotencykey_created_at", "idempotencykey", ["created_at"])
    op.add_column("device", sa.Column("token_id", sa.String(), nullable=True))
    op.execute("UPDATE device SET token_id = (SELECT agent.token_id FROM agent WHERE agent.id = device.agent_id)")
    op.add_column("attempt", sa.Column("profile", sa.JSON(), nullable=True))
    op.add_column("supernet", sa.Column("table_sha256", sa.String(), nullable=True))
    op.add_column("supernet", sa.Column("table_bytes", sa.BigInteger(), nullable=True))
    op.execute(f"UPDATE model SET manifest = {CUT} WHERE source = 'upload' AND {LENGTH} > {MAX_MANIFEST_CHARS}")
    op.add_column("measurement", sa.Column("p90_stable", sa.Boolean(), nullable=True))
    op.add_column("measurement", sa.Column("p90_lower_ms", sa.Float(), nullable=True))
    op.add_column("measurement", sa.Column("p90_upper_ms", sa.Float(), nullable=True))
    op.add_column("measurement", sa.Column("p90_unstable_reason", sa.String(), nullable=True))
    op.create_table(
        "presence",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
