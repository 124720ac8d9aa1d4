"""What is kept in local files."""
