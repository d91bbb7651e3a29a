"""What is stored: database and its tables, migrations, files by content, supernet files."""
