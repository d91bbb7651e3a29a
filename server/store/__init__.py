"""What is stored: database, tables, migrations, files by content, supernet files."""
