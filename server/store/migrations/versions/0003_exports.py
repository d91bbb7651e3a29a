"""Models are found again by what decided their bytes, and have files in other formats."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("model", sa.Column("export_key", sa.String(), nullable=True))
    op.create_index("ix_model_export_key", "model", ["export_key"], unique=True)
    op.create_table(
        "modelfile",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["model.id"],
        ),
        sa.PrimaryKeyConstraint("model_id", "format"),
    )
